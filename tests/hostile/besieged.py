"""What a test of a hostile vendor sees: the daemon, the vendor, a client, and what is stored."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from importlib.metadata import EntryPoint
from typing import Any, TypeAlias

import aiohttp
from stand_in import SYMBOL, Vendor

from marketd.clock import ManualClock
from marketd.config import Config
from marketd.daemon import Daemon
from marketd.domain.bar import Bar, select
from marketd.domain.coverage import proven
from marketd.domain.instrument import Instrument, Series
from marketd.domain.timeframe import Timeframe
from marketd.domain.timerange import TimeRange

M = 60_000
START = 1_709_647_200_000  # 2024-03-05T14:00:00Z
NOW = START + 600 * M + 30_000
MINUTE = Timeframe.parse("1m")
SERIES = Series(Instrument("crypto", "vendor", SYMBOL), MINUTE)
DAY_MS = 86_400_000


class World:
    """The daemon, the vendor and a client."""

    def __init__(self, vendor: Vendor, config: Config, clock: ManualClock) -> None:
        self.vendor = vendor
        self.clock = clock
        self.config = config
        self.daemon: Daemon
        self.session: aiohttp.ClientSession

    async def start(self) -> None:
        """Starts the daemon, over the database of the one before if there was one."""
        entry = EntryPoint("stand_in", "stand_in_plugin", "marketd")
        self.daemon = Daemon(self.config, clock=self.clock, found=lambda: [entry])
        await self.daemon.start()
        self.session = aiohttp.ClientSession(self.daemon.url)

    async def stop(self) -> None:
        await self.session.close()
        await self.daemon.stop()

    async def restart(self) -> None:
        await self.stop()
        await self.start()

    async def ask(self, **query: Any) -> tuple[int, dict[str, Any], Any]:
        """Status, body and headers of the answer about some minutes after START."""
        names = {"market": "crypto", "provider": "vendor", "symbol": SYMBOL, "timeframe": "1m"}
        query = names | {"since": START, "before": START + 300 * M, "limit": 1_000} | query
        given = {key: value for key, value in query.items() if value is not None}
        async with self.session.get("/api/v1/ohlcv", params=given) as response:
            return response.status, await response.json(), response.headers

    async def bars(self, **query: Any) -> list[Bar]:
        """The bars of an answer that is whole."""
        status, body, _ = await self.ask(**query)
        assert status == 200, body
        assert body["complete"], body["gaps"]
        return [tuple(row) for row in body["bars"]]

    def truth(self, first: int = 0, end: int = 300) -> list[Bar]:
        """The vendor's bars of some minutes after START."""
        return self.vendor.truth(TimeRange(START + first * M, START + end * M))

    async def stored(self, symbol: str = SYMBOL) -> list[Bar]:
        """What is stored, once it is certain that nothing of it is made up or taken for proof.

        Of a covered range, every bar is there and no other; no bar is there that the vendor has not.
        """
        series = Series(Instrument("crypto", "vendor", symbol), MINUTE)
        span = TimeRange(START - 30 * DAY_MS, START + 30 * DAY_MS)
        bars, coverage = await self.daemon.storage.read(series, span, limit=100_000)
        closed_ms = MINUTE.floor(self.clock.now_ms())
        for piece in proven(coverage):
            assert piece.end_ms <= closed_ms
            within = list(select(bars, since=piece.start_ms, before=piece.end_ms))
            assert within == self.vendor.truth(piece)
        assert set(bars) <= set(self.vendor.bars)
        assert not bars or bars[-1][0] < closed_ms
        return bars

    def metric(self, name: str, **labels: str) -> float:
        value = self.daemon.metrics.registry.get_sample_value(name, {"provider": "vendor"} | labels)
        return value or 0.0


Make: TypeAlias = Callable[..., Awaitable[World]]
