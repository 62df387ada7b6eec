"""`python -m bench.customer DATABASE EXCHANGE REQUESTS`: marketd with that exchange as its provider.

REQUESTS is how many the exchange allows a second, 0 for any number. Besides the year of minutes there
are symbols of which nothing is said but live: seconds, whose volume is the time at which they were; and
one with minutes up to now that says nothing live.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from http import HTTPStatus
from importlib.metadata import EntryPoint
from typing import Any

import aiohttp
import orjson
from marshmallow import Schema, fields

from bench.exchange import PAGE
from bench.series import MINUTE_MS, minute
from marketd.config import Config, ProviderConfig, ServerConfig, StorageConfig, StreamConfig
from marketd.config.settings import Millis
from marketd.daemon import Daemon
from marketd.domain.bar import Bar
from marketd.domain.errors import ProviderRateLimited
from marketd.domain.instrument import SymbolInfo
from marketd.domain.timeframe import Timeframe
from marketd.plugins import BarStreams, BarUpdate, MarketPlugin, PluginContext, RateLimit, hookimpl

YEAR = "YEAR"
DEEP = "DEEP"
# For who asks for that and what is live alone.
NO_EXCHANGE = ("http://127.0.0.1:9", "0")
LIVE = [f"LIVE{number}" for number in range(20)]
SECOND, MINUTE = Timeframe.parse("1s"), Timeframe.parse("1m")
BURST = 5
_STEP_S = 0.1


class Settings(Schema):
    url = fields.String(required=True)
    requests = fields.Integer(required=True)


class Customer(MarketPlugin, BarStreams):
    """The local exchange's plugin, as one would write it for a real one."""

    plugin = "customer"
    settings_schema = Settings
    markets = ("crypto",)
    timeframes = (SECOND, MINUTE)
    page_limit = PAGE
    concurrency = 8

    def __init__(self, context: PluginContext) -> None:
        super().__init__(context)
        self._session: aiohttp.ClientSession

    async def open(self) -> None:
        settings = self.context.settings
        if settings["requests"]:
            self.rate_limit = RateLimit(settings["requests"], per_ms=1_000, burst=BURST)
        self._session = aiohttp.ClientSession(settings["url"])

    async def close(self) -> None:
        await self._session.close()

    async def get_symbols(self, market: str) -> Sequence[SymbolInfo]:
        return [SymbolInfo(symbol, market) for symbol in (YEAR, DEEP, *LIVE)]

    async def fetch_ohlcv(
        self,
        symbol: str,
        timeframe: Timeframe,
        since: int,
        before: int,
        limit: int,
        params: Mapping[str, Any],
    ) -> Sequence[Bar]:
        if symbol == DEEP:
            ends = min(before, since + limit * MINUTE_MS)
            return [minute(t_ms, t_ms // MINUTE_MS) for t_ms in range(since, ends, MINUTE_MS)]
        if symbol != YEAR:
            return []
        asked = {"since": since, "before": before, "sent": time.monotonic()}
        async with self._session.get("/bars", params=asked) as response:
            if response.status == HTTPStatus.TOO_MANY_REQUESTS:
                raise ProviderRateLimited("The exchange has been asked too often.")
            rows = orjson.loads(await response.read())
        return list(map(tuple, rows))

    async def stream_bars(self, symbol: str, timeframe: Timeframe) -> AsyncIterator[BarUpdate]:
        if symbol == DEEP:
            await asyncio.Event().wait()
        # Each symbol at a time of its own within the step.
        await asyncio.sleep(_STEP_S * LIVE.index(symbol) / len(LIVE))
        t_ms = timeframe.floor(self.clock.now_ms())
        while True:
            await asyncio.sleep(_STEP_S)
            now_ms = timeframe.floor(self.clock.now_ms())
            if now_ms > t_ms:
                yield BarUpdate((t_ms, 1.0, 1.0, 1.0, 1.0, time.monotonic()), closed=True)
                t_ms = now_ms
            else:
                yield BarUpdate((t_ms, 1.0, 1.0, 1.0, 1.0, time.monotonic()), closed=False)


@hookimpl
def marketd_providers() -> Sequence[type[MarketPlugin]]:
    return [Customer]


async def main(database: str, exchange: str, requests: str) -> None:
    settings = {"url": exchange, "requests": int(requests)}
    config = Config(
        server=ServerConfig(port=0),
        storage=StorageConfig(f"sqlite:///{database}"),
        # The crowd does not answer pings.
        stream=StreamConfig(heartbeat=Millis(3_600_000)),
        providers={"customer": ProviderConfig("customer", "customer", settings)},
    )
    daemon = Daemon(config, found=lambda: [EntryPoint("customer", "bench.customer", "marketd")])
    await daemon.start()
    print(daemon.url, flush=True)
    await daemon.run_until_signalled(lambda: config)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
