"""Twelve Data as a provider, against a server that answers as Twelve Data does."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from marketd_twelvedata.plugin import TwelveDataCredentials, TwelveDataPlugin, TwelveDataSettings

from marketd.client import MarketdClient
from marketd.clock import ManualClock
from marketd.config import Config, ProviderConfig, ServerConfig, StorageConfig
from marketd.daemon import Daemon
from marketd.domain.bar import Bar
from marketd.domain.errors import HistoryEnds, ProviderFailed, ProviderRateLimited
from marketd.domain.rate_limit import RateLimit
from marketd.domain.timeframe import Timeframe
from marketd.plugins import MarketPlugin, PluginContext
from marketd.plugins.testing import ProviderKit

M = 60_000
FIRST = 1_709_251_200_000  # 2024-03-01T00:00:00Z, when its history begins
START = 1_709_647_200_000  # 2024-03-05T14:00:00Z
NOW = START + 300 * M + 30_000
MINUTE = Timeframe.parse("1m")
KEY = "twelve-key"
# A page of the vendor is shorter than its history.
BARS: list[Bar] = [
    (t_ms, 5.0, 9.0, 4.0, 5.5 + t_ms // M % 8 / 8, 100.0)
    for t_ms in range(FIRST, NOW, M)
    if t_ms // M % 7
]


def text(t_ms: int) -> str:
    return datetime.fromtimestamp(t_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")


ROWS = [
    {"datetime": text(t), "open": str(o), "high": str(h), "low": str(low), "close": str(c)}
    for t, o, h, low, c, _ in BARS
]


def error(code: int, message: str, status: int = 200) -> web.Response:
    return web.json_response({"code": code, "message": message, "status": "error"}, status=status)


class TwelveData:
    """Of a range with more than 5,000 bars it gives the newest."""

    def __init__(self) -> None:
        self.url = ""
        self.asked: list[str] = []
        self.refusal: web.Response | None = None

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[TwelveData]:
        app = web.Application()
        app.router.add_get("/{path}", self._answer)
        async with TestServer(app) as server:
            self.url = str(server.make_url("/"))
            yield self

    async def _answer(self, request: web.Request) -> web.Response:
        self.asked.append(request.path_qs)
        if request.headers.get("Authorization") != f"apikey {KEY}":
            return error(401, "**apikey** parameter is incorrect or not specified.", 401)
        if self.refusal is not None:
            refusal, self.refusal = self.refusal, None
            return refusal
        match request.match_info["path"]:
            case "stocks":
                rows = [
                    {"symbol": symbol, "name": f"{symbol} Inc", "currency": "USD", "exchange": exchange}
                    for symbol, exchange in (("AAPL", "NASDAQ"), ("AAPL", "NYSE"), ("SPY", "NYSE"))
                ]
                return web.json_response({"data": rows, "status": "ok"})
            case "forex_pairs":
                pair = {"symbol": "EUR/USD", "currency_base": "Euro", "currency_quote": "US Dollar"}
                return web.json_response({"data": [pair], "status": "ok"})
            case "earliest_timestamp":
                return web.json_response({"datetime": text(FIRST), "unix_time": FIRST // 1000})
            case "time_series":
                return self._series(request.query)
        return web.json_response({"current_usage": 1})

    def _series(self, query: Mapping[str, str]) -> web.Response:
        assert (query["interval"], query["timezone"], query["order"]) == ("1min", "UTC", "ASC")
        found = [row for row in ROWS if query["start_date"] <= row["datetime"] <= query["end_date"]]
        values = [{**row, "volume": "100.0"} for row in found] if "/" not in query["symbol"] else found
        if not values:
            return error(400, "No data is available on the specified dates. Try setting others.")
        return web.json_response({"meta": {}, "values": values[-5_000:], "status": "ok"})


@asynccontextmanager
async def opened(vendor: TwelveData, key: str = KEY) -> AsyncIterator[TwelveDataPlugin]:
    told = {"base_url": vendor.url, "markets": ["us_equity", "forex"]}
    settings, credentials = TwelveDataSettings().load(told), TwelveDataCredentials().load({"key": key})
    plugin = TwelveDataPlugin(PluginContext("x", ManualClock(NOW), settings, credentials))
    try:
        await plugin.open()
        yield plugin
    finally:
        await plugin.close()


@pytest.fixture
async def vendor() -> AsyncIterator[TwelveData]:
    async with TwelveData().serving() as vendor:
        yield vendor


class TestTwelveData(ProviderKit):
    plugin_class = TwelveDataPlugin
    credentials: ClassVar[Mapping[str, Any]] = {"key": KEY}
    market = "us_equity"
    symbol = "SPY"
    since = START
    before = START + 60 * M
    recording = tuple(bar for bar in BARS if START <= bar[0] < START + 60 * M)

    @asynccontextmanager
    async def provider(self) -> AsyncIterator[MarketPlugin]:
        async with (
            TwelveData().serving() as vendor,
            opened(vendor, self.credentials["key"]) as plugin,
        ):
            yield plugin

    def failures(self) -> Mapping[str, Callable[[], AbstractAsyncContextManager[MarketPlugin]]]:
        return {"wrong key": self.with_a_wrong_key}

    @asynccontextmanager
    async def with_a_wrong_key(self) -> AsyncIterator[MarketPlugin]:
        self.credentials = {"key": "wrong-key"}
        try:
            async with self.provider() as plugin:
                yield plugin
        finally:
            del self.credentials


async def test_more_than_a_page_is_asked_for_in_stretches_that_the_vendor_answers_in_full(
    vendor: TwelveData, tmp_path: Path
) -> None:
    x = ProviderConfig(
        "x", "twelvedata", {"base_url": vendor.url}, {"key": KEY}, RateLimit(1_000, 1_000, burst=100)
    )
    config = Config(
        server=ServerConfig(port=0),
        storage=StorageConfig(url=f"sqlite:///{tmp_path / 'marketd.db'}"),
        providers={"x": x},
    )
    daemon = Daemon(config, clock=ManualClock(NOW))
    await daemon.start()
    try:
        async with MarketdClient(daemon.url) as client:
            since = FIRST - 60 * M
            span = {"since": since, "before": START, "limit": 10_000}
            answer = await client.ohlcv("us_equity", "x", "SPY", "1m", **span)
            assert list(answer.bars) == [bar for bar in BARS if bar[0] < START]
            # What is older than the vendor's history is told, and is not silence.
            assert not answer.complete
            assert [(gap.start_ms, gap.end_ms, gap.reason) for gap in answer.gaps] == [
                (since, FIRST, "unrecoverable")
            ]
            assert len([one for one in vendor.asked if "time_series" in one]) <= 4
    finally:
        await daemon.stop()


async def test_the_lists_of_the_markets_are_read(vendor: TwelveData) -> None:
    async with opened(vendor) as plugin:
        stocks = await plugin.get_symbols("us_equity")
        assert [(one.symbol, one.name, one.quote) for one in stocks] == [
            ("AAPL", "AAPL Inc", "USD"),
            ("SPY", "SPY Inc", "USD"),
        ]
        (pair,) = await plugin.get_symbols("forex")
        assert (pair.symbol, pair.base, pair.quote) == ("EUR/USD", "Euro", "US Dollar")
        (bar,) = await plugin.fetch_ohlcv("EUR/USD", MINUTE, BARS[0][0], BARS[0][0] + 1, 1, {})
        assert bar == (*BARS[0][:5], None)


async def test_what_is_older_than_the_history_is_no_silence(vendor: TwelveData) -> None:
    async with opened(vendor) as plugin:
        for _ in range(2):
            with pytest.raises(HistoryEnds) as told:
                await plugin.fetch_ohlcv("SPY", MINUTE, FIRST - 60 * M, FIRST - 30 * M, 100, {})
            assert told.value.first_ms == FIRST
        # Once known, it is not asked for again; and a quiet stretch later on is one.
        assert len([one for one in vendor.asked if "earliest" in one]) == 1
        quiet = next(t_ms for t_ms in range(START, NOW, M) if not t_ms // M % 7)
        assert await plugin.fetch_ohlcv("SPY", MINUTE, quiet, quiet + 1, 100, {}) == []


async def test_errors_in_the_body_of_a_200_are_told_as_what_they_are(vendor: TwelveData) -> None:
    with pytest.raises(ProviderFailed, match="key refused"):
        async with opened(vendor, "another-key"):
            pass
    assert not any("key" in one for one in vendor.asked)
    async with opened(vendor) as plugin:
        await plugin.get_symbols("us_equity")
        for code, kind, match in (
            (401, ProviderFailed, "key refused"),
            (403, ProviderFailed, "plan does not include"),
            (429, ProviderRateLimited, "patience"),
            (500, ProviderFailed, "500"),
        ):
            vendor.refusal = error(code, "You have run out of API credits, or whatever it is.")
            with pytest.raises(kind, match=match):
                await plugin.fetch_ohlcv("SPY", MINUTE, START, NOW, 5, {})
        vendor.refusal = web.json_response({"values": [{"datetime": "soon"}], "status": "ok"})
        with pytest.raises(ProviderFailed, match="cannot be read"):
            await plugin.fetch_ohlcv("SPY", MINUTE, START, NOW, 5, {})


def test_the_readme_has_every_setting_and_credential() -> None:
    readme = (Path(__file__).resolve().parents[1] / "README.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `(\w+)` \|", readme, re.MULTILINE)) == set(TwelveDataSettings().fields)
    assert all(f"{name} =" in readme for name in TwelveDataCredentials().fields)


def test_it_is_small() -> None:
    package = Path(__file__).resolve().parents[1] / "marketd_twelvedata"
    assert sum(len(file.read_text("utf-8").splitlines()) for file in package.glob("*.py")) < 250
