"""Massive as a provider, against a server that answers as Massive does."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, ClassVar

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from marketd_massive.plugin import MassiveCredentials, MassiveParams, MassivePlugin, MassiveSettings

from marketd.clock import ManualClock
from marketd.domain.bar import Bar
from marketd.domain.errors import ProviderFailed, ProviderRateLimited
from marketd.domain.timeframe import Timeframe
from marketd.plugins import MarketPlugin, PluginContext
from marketd.plugins.testing import ProviderKit

M = 60_000
START = 1_709_647_200_000  # 2024-03-05T14:00:00Z
NOW = START + 300 * M + 30_000
MINUTE = Timeframe.parse("1m")
KEY = "massive-key"
# Every seventh minute has no trade.
BARS: list[Bar] = [(START + n * M, 5.0 + n % 3, 9.0, 4.0, 5.5, float(n)) for n in range(301) if n % 7]
TICKERS = {
    "stocks": [
        {"ticker": name, "name": f"{name} Inc.", "currency_name": "usd"} for name in ("AAPL", "SPY")
    ],
    "crypto": [
        {
            "ticker": "X:BTCUSD",
            "name": "Bitcoin - United States Dollar",
            "base_currency_symbol": "BTC",
            "currency_symbol": "USD",
        }
    ],
}


class Massive:
    """Pages of at most `page` rows, each but the last with the address of the next."""

    def __init__(self) -> None:
        self.url = ""
        self.page = 100
        self.asked: list[str] = []
        self.status = "OK"
        self.refusal: web.Response | None = None
        # Where the addresses of next pages point: not to the stand-in, as a gateway has it.
        self.address = "https://api.massive.com"

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[Massive]:
        app = web.Application()
        app.router.add_get("/{path:.*}", self._answer)
        async with TestServer(app) as server:
            self.url = str(server.make_url("/"))
            yield self

    async def _answer(self, request: web.Request) -> web.Response:
        self.asked.append(request.path_qs)
        if request.headers.get("Authorization") != f"Bearer {KEY}":
            return web.json_response({"status": "ERROR", "error": "Unknown API Key"}, status=401)
        if self.refusal is not None:
            refusal, self.refusal = self.refusal, None
            return refusal
        parts = request.path.strip("/").split("/")
        rows = self._bars(parts, request.query) if parts[0] == "v2" else self._tickers(request.query)
        begin = int(request.query.get("cursor", 0))
        end = begin + min(int(request.query["limit"]), self.page)
        answer = {"status": self.status, "results": rows[begin:end], "request_id": "1"}
        if end < len(rows):
            query = request.url.update_query(cursor=end).query_string
            answer["next_url"] = f"{self.address}{request.path}?{query}"
        if not rows:
            del answer["results"]
        return web.json_response(answer)

    def _tickers(self, query: Mapping[str, str]) -> list[dict[str, Any]]:
        return TICKERS.get(query.get("market", "stocks"), [])

    def _bars(self, parts: list[str], query: Mapping[str, str]) -> list[dict[str, Any]]:
        *_, ticker, _, count, span, since, before = parts
        assert (count, span, query["sort"]) == ("1", "minute", "asc")
        factor = 0.5 if query["adjusted"] == "true" else 1.0
        return [
            {"t": t, "o": o * factor, "h": h, "l": low * factor, "c": c * factor, "v": v, "n": 1}
            for t, o, h, low, c, v in BARS
            if int(since) <= t <= int(before) and ticker in ("SPY", "AAPL", "X:BTCUSD")
        ]


@asynccontextmanager
async def opened(massive: Massive, key: str = KEY, **settings: Any) -> AsyncIterator[MassivePlugin]:
    told = {"base_url": massive.url, "markets": ["us_equity", "crypto"], "delay_minutes": 0, **settings}
    context = PluginContext(
        "x", ManualClock(NOW), MassiveSettings().load(told), MassiveCredentials().load({"key": key})
    )
    plugin = MassivePlugin(context)
    try:
        await plugin.open()
        yield plugin
    finally:
        await plugin.close()


@pytest.fixture
async def massive() -> AsyncIterator[Massive]:
    async with Massive().serving() as massive:
        yield massive


class TestMassive(ProviderKit):
    plugin_class = MassivePlugin
    credentials: ClassVar[Mapping[str, Any]] = {"key": KEY}
    market = "us_equity"
    symbol = "SPY"
    since = START
    before = START + 60 * M
    recording = tuple(bar for bar in BARS if bar[0] < START + 60 * M)

    @asynccontextmanager
    async def provider(self) -> AsyncIterator[MarketPlugin]:
        async with (
            Massive().serving() as massive,
            opened(massive, self.credentials["key"]) as plugin,
        ):
            massive.page = 10
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


async def test_pages_are_followed_by_their_next_url_but_never_to_another_host(massive: Massive) -> None:
    massive.page, massive.address = 50, "http://127.0.0.1:1"
    async with opened(massive) as plugin:
        found = await plugin.fetch_ohlcv("SPY", MINUTE, START, NOW, 10_000, {})
        assert list(found) == BARS
        assert len([one for one in massive.asked if "/v2/aggs" in one]) == -(-len(BARS) // 50)
        assert [*await plugin.fetch_ohlcv("SPY", MINUTE, START, NOW, 60, {})] == BARS[:60]


async def test_pages_without_an_end_are_given_up(massive: Massive) -> None:
    massive.page = 0
    async with opened(massive) as plugin:
        with pytest.raises(ProviderFailed, match="without an end"):
            await plugin.get_symbols("us_equity")


async def test_each_market_lists_its_own_tickers(massive: Massive) -> None:
    async with opened(massive) as plugin:
        assert [info.symbol for info in await plugin.get_symbols("us_equity")] == ["AAPL", "SPY"]
        (coin,) = await plugin.get_symbols("crypto")
        assert (coin.symbol, coin.base, coin.quote) == ("X:BTCUSD", "BTC", "USD")
        bars = await plugin.fetch_ohlcv("X:BTCUSD", MINUTE, START, NOW, 5, {})
        assert list(bars) == BARS[:5]


async def test_prices_are_adjusted_only_if_that_is_asked_for(massive: Massive) -> None:
    async with opened(massive) as plugin:
        params = MassiveParams().load({"adjusted": "true"})
        adjusted = await plugin.fetch_ohlcv("SPY", MINUTE, START, NOW, 5, params)
        assert [bar[1] for bar in adjusted] == [(bar[1] or 0) / 2 for bar in BARS[:5]]


async def test_what_a_plan_tells_late_is_not_taken_for_silence(massive: Massive) -> None:
    async with opened(massive, delay_minutes=15) as plugin:
        assert plugin.clock.now_ms() == NOW - 15 * M
        found = await plugin.fetch_ohlcv("SPY", MINUTE, START, NOW, 10_000, {})
        assert found[-1][0] <= NOW - 15 * M
    massive.status = "DELAYED"
    async with opened(massive, delay_minutes=15) as plugin:
        assert await plugin.fetch_ohlcv("SPY", MINUTE, START, NOW, 5, {})
    async with opened(massive) as plugin:
        with pytest.raises(ProviderFailed, match="set delay_minutes"):
            await plugin.fetch_ohlcv("SPY", MINUTE, START, NOW, 5, {})


async def test_refusals_are_told_as_what_they_are_and_tell_no_key(massive: Massive) -> None:
    with pytest.raises(ProviderFailed, match="key refused") as told:
        async with opened(massive, "another-key"):
            pass
    assert not told.value.transient
    assert not any("key" in one for one in massive.asked)
    async with opened(massive) as plugin:
        await plugin.get_symbols("us_equity")
        massive.refusal = web.json_response({}, status=429, headers={"Retry-After": "12"})
        with pytest.raises(ProviderRateLimited) as limited:
            await plugin.fetch_ohlcv("SPY", MINUTE, START, NOW, 5, {})
        assert limited.value.retry_after_s == 12
        massive.refusal = web.json_response({"status": "NOT_AUTHORIZED"}, status=403)
        with pytest.raises(ProviderFailed, match="plan does not include"):
            await plugin.fetch_ohlcv("SPY", MINUTE, START, NOW, 5, {})
        massive.refusal = web.json_response({"status": "OK", "results": [{"t": 1}]})
        with pytest.raises(ProviderFailed, match="cannot be read"):
            await plugin.fetch_ohlcv("SPY", MINUTE, START, NOW, 5, {})


def test_the_readme_has_every_setting_parameter_and_credential() -> None:
    readme = (Path(__file__).resolve().parents[1] / "README.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `(\w+)` \|", readme, re.MULTILINE)) == set(MassiveSettings().fields)
    assert all(f"{name}=" in readme for name in MassiveParams().fields)
    assert all(f"{name} =" in readme for name in MassiveCredentials().fields)


def test_it_is_small() -> None:
    package = Path(__file__).resolve().parents[1] / "marketd_massive"
    assert sum(len(file.read_text("utf-8").splitlines()) for file in package.glob("*.py")) < 250
