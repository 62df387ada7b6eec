"""A provider that does everything right, for others to get one thing wrong."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from marketd.domain.bar import Bar, Tick
from marketd.domain.errors import ProviderFailed, UnknownSymbol
from marketd.domain.instrument import SymbolInfo
from marketd.domain.timeframe import Timeframe
from marketd.domain.timerange import TimeRange
from marketd.plugins import (
    BarStreams,
    BarUpdate,
    MarketHours,
    MarketPlugin,
    PluginContext,
    ScaledClock,
    TickHistory,
    TickStreams,
)

SECOND = Timeframe.parse("1s")
START = 1_709_647_200_000  # 2024-03-05T14:00:00Z
S, M = 1_000, 60_000


class Honest(MarketPlugin, BarStreams, TickStreams, TickHistory, MarketHours):
    """Has a bar and two trades for every second from START on; its clock runs fifty times as fast."""

    plugin = "honest"
    page_limit = 100

    def __init__(self, context: PluginContext) -> None:
        super().__init__(context)
        self.clock = ScaledClock(context.clock, start_ms=START + 60 * S, speed=50)
        self.markets = ("crypto",)
        self.timeframes = (SECOND,)
        self.cut = asyncio.Event()

    async def get_symbols(self, market: str) -> Sequence[SymbolInfo]:
        return [SymbolInfo(symbol, market) for symbol in ("Btc/usd", "ETH/USD")]

    async def fetch_ohlcv(
        self,
        symbol: str,
        timeframe: Timeframe,
        since: int,
        before: int,
        limit: int,
        params: Mapping[str, Any],
    ) -> Sequence[Bar]:
        await self.find(symbol)
        await asyncio.sleep(0.001)
        first_ms = max(START, timeframe.ceil(since))
        end_ms = min(before, self.clock.now_ms() + 1)
        return [self.bar(t_ms) for t_ms in range(first_ms, end_ms, S)[:limit]]

    async def stream_bars(self, symbol: str, timeframe: Timeframe) -> AsyncIterator[BarUpdate]:
        t_ms = timeframe.floor(self.clock.now_ms())
        while True:
            yield BarUpdate(self.bar(t_ms), closed=False)
            await self.reaches(t_ms + S)
            yield BarUpdate(self.bar(t_ms), closed=True)
            t_ms += S

    async def stream_ticks(self, symbol: str) -> AsyncIterator[Sequence[Tick]]:
        t_ms = SECOND.ceil(self.clock.now_ms())
        while True:
            await self.reaches(t_ms)
            yield self.trades(t_ms)
            t_ms += S

    async def fetch_ticks(self, symbol: str, since: int, before: int, limit: int) -> Sequence[Tick]:
        await self.find(symbol)
        end_ms = min(before, self.clock.now_ms() + 1)
        times = range(max(START, SECOND.ceil(since)), end_ms, S)
        return [tick for t_ms in times for tick in self.trades(t_ms)][:limit]

    def closed(self, symbol: str, since: int, before: int) -> Sequence[TimeRange]:
        """Closed before its first bar, which it tells in two pieces."""
        asked = TimeRange(since, before)
        pieces = (TimeRange(0, START - M).clip(asked), TimeRange(START - M, START).clip(asked))
        return [piece for piece in pieces if not piece.is_empty]

    async def find(self, symbol: str) -> None:
        if symbol not in {info.symbol for info in await self.get_symbols("crypto")}:
            raise UnknownSymbol(f"There is no symbol {symbol}.")

    async def reaches(self, t_ms: int) -> None:
        """Waits until it is `t_ms`, unless the vendor hangs up."""
        waiting = asyncio.ensure_future(self.clock.sleep_until(t_ms))
        hung_up = asyncio.ensure_future(self.cut.wait())
        try:
            await asyncio.wait([waiting, hung_up], return_when=asyncio.FIRST_COMPLETED)
        finally:
            waiting.cancel()
            hung_up.cancel()
        if self.cut.is_set():
            self.cut.clear()
            raise ProviderFailed("The vendor hung up.")

    def trades(self, t_ms: int) -> Sequence[Tick]:
        return [(t_ms, 1.5, 2.0, "buy", ""), (t_ms, 1.5, 1.0, "", str(t_ms))]

    def bar(self, t_ms: int) -> Bar:
        price = 100.0 + t_ms // S % 7
        return (t_ms, price, price + 1, price - 1, price, 1.0)
