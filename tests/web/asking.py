"""What the tests of the web room ask, and of which daemon."""

from __future__ import annotations

import math
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from http import HTTPStatus
from pathlib import Path
from typing import Any

import aiohttp

from marketd.config import Config, ProviderConfig, ServerConfig, StorageConfig
from marketd.daemon import Daemon

Start = Callable[..., Awaitable[Daemon]]

START = 1_709_647_200_000  # 2024-03-05T14:00:00Z
NOW = START + 30 * 60_000 + 30_000
M = 60_000

# Every kind of value that a source may have; minutes 3 and 6 to 8 have no bar.
ODD = """timestamp_ms,open,high,low,close,volume
{0},1.5,2,0.5,1.25,10
{1},,,,,
{2},NaN,NaN,NaN,NaN,NaN
{4},1,Infinity,-Infinity,1e-7,0
{5},0.1,1e22,0.1,123456789.123456789,
{9},1,NaN,,1,Infinity
"""

PROBLEM_KEYS = ("type", "title", "status", "code", "detail")
# What can be read aloud: a line of words that ends like a sentence, and no "field: reason".
SENTENCE = re.compile(r"(?!\w+:)[\w/].{10,200}\.", re.DOTALL)

Query = Mapping[str, Any] | Sequence[tuple[str, str]]


def configured(folder: Path, **sections: Any) -> Config:
    """Two providers: the simulated exchange, and a file with every odd value under an odd name."""
    file = folder / "odd.csv"
    file.write_text(ODD.format(*(START + minute * M for minute in range(10))), encoding="utf-8")
    series = [
        {"file": file.name, "market": "odd", "symbol": symbol, "timeframe": "1m"}
        for symbol in ("ODD", "a/b?c=d&e", "“☃” %2F")
    ]
    providers = {
        "sim": ProviderConfig("sim", "sim", {"seed": 1}),
        "files": ProviderConfig("files", "replay", {"path": str(folder), "series": series}),
    }
    storage = StorageConfig(url=f"sqlite:///{folder / 'marketd.db'}")
    return Config(server=ServerConfig(port=0), storage=storage, providers=providers, **sections)


def worded(value: Any) -> Any:
    """A number as JSON has it."""
    if not isinstance(value, float) or math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def spoken_problem(
    status: int, headers: Mapping[str, str], body: dict[str, Any], wanted: int
) -> dict[str, Any]:
    """`body`, once it is certain to be a problem of that status with a sentence that can be spoken."""
    assert status == wanted, body
    assert headers["Content-Type"] == "application/problem+json"
    assert {"type", "title", "status", "code", "detail"} <= set(body) <= {*PROBLEM_KEYS, "field"}
    assert body["status"] == status
    assert body["title"] == HTTPStatus(status).phrase
    assert SENTENCE.fullmatch(body["detail"]), body["detail"]
    return body


class Api:
    """Asks the daemon over HTTP."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self.session = session

    async def get(self, path: str, **query: Any) -> dict[str, Any]:
        """The body of a successful answer."""
        async with self.session.get(path, params=query) as response:
            body: dict[str, Any] = await response.json()
            assert response.status == 200, body
            assert response.content_type == "application/json"
            return body

    async def refused(self, status: int, path: str, query: Query = (), **options: Any) -> dict[str, Any]:
        """The problem of an answer that is one."""
        async with self.session.request(
            options.pop("method", "GET"), path, params=query, **options
        ) as response:
            return spoken_problem(response.status, response.headers, await response.json(), status)

    async def ohlcv(
        self, symbol: str = "BTC/USD", timeframe: str = "1m", /, **query: Any
    ) -> dict[str, Any]:
        """Bars of the simulated exchange, or of the file where no such symbol is listed there."""
        series = {"market": "crypto", "provider": "sim"}
        if symbol not in ("BTC/USD", "DOGE/BTC"):
            series = {"market": "odd", "provider": "files"}
        return await self.get("/api/v1/ohlcv", **series, symbol=symbol, timeframe=timeframe, **query)
