"""The simulated exchange as a provider."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from marketd.domain.bar import Bar, Tick
from marketd.domain.errors import UnknownSymbol, Unsupported
from marketd.domain.instrument import SymbolInfo
from marketd.domain.timeframe import Timeframe
from marketd.domain.timerange import TimeRange
from marketd.plugins import (
    BarStreams,
    BarUpdate,
    Clock,
    MarketHours,
    MarketPlugin,
    PluginContext,
    ScaledClock,
    TickHistory,
    TickStreams,
)
from marketd.plugins.sim.calendar import around_the_clock, new_york
from marketd.plugins.sim.history import DAY, MINUTE, SECOND, History
from marketd.plugins.sim.listings import CRYPTO, US_EQUITY, listings
from marketd.plugins.sim.settings import SimSettings
from marketd.plugins.sim.streams import bar_updates, tick_batches

# However fast the exchange's clock runs, its streams have something new to say this often in real time.
_REAL_PACE_MS = 50


class SimPlugin(MarketPlugin, BarStreams, TickStreams, TickHistory, MarketHours):
    """Every value is a function of the seed, the symbol and the time: a restart changes nothing."""

    plugin = "sim"
    description = (
        "Simulated market data: invented, repeatable prices for trying things out, not real ones."
    )
    settings_schema = SimSettings
    page_limit = 10_000
    is_authoritative = True
    tick_page_limit = 2_000

    def __init__(self, context: PluginContext) -> None:
        super().__init__(context)
        self.markets = (CRYPTO, US_EQUITY)
        self.timeframes = (SECOND, MINUTE, DAY)
        self._settings = SimSettings().load({}) | dict(context.settings)
        self._speed: float = self._settings["speed"]
        self._pace_ms = round(_REAL_PACE_MS * self._speed) if self._speed > 1 else 0
        self.clock = self._exchange_clock()
        self._histories: Mapping[str, History] = {}

    async def open(self) -> None:
        self._histories = await asyncio.to_thread(_histories, self._settings["seed"])
        self.clock = self._exchange_clock()

    async def get_symbols(self, market: str) -> Sequence[SymbolInfo]:
        return [listing.info for listing in listings() if listing.market == market]

    async def fetch_ohlcv(
        self,
        symbol: str,
        timeframe: Timeframe,
        since: int,
        before: int,
        limit: int,
        params: Mapping[str, Any],
    ) -> Sequence[Bar]:
        history = self._history(symbol, timeframe)
        return await asyncio.to_thread(
            history.bars_at, self.clock.now_ms(), timeframe, since, before, limit
        )

    def stream_bars(self, symbol: str, timeframe: Timeframe) -> AsyncIterator[BarUpdate]:
        return bar_updates(
            self._history(symbol, timeframe),
            timeframe,
            self.clock,
            since_ms=self.clock.now_ms(),
            pace_ms=self._pace_ms,
        )

    def stream_ticks(self, symbol: str) -> AsyncIterator[Sequence[Tick]]:
        return tick_batches(
            self._history(symbol),
            self.clock,
            since_ms=self.clock.now_ms() + 1,
            pace_ms=self._pace_ms,
        )

    async def fetch_ticks(self, symbol: str, since: int, before: int, limit: int) -> Sequence[Tick]:
        end_ms = min(before, self.clock.now_ms() + 1)
        return await asyncio.to_thread(self._history(symbol).ticks, since, end_ms, limit)

    def closed(self, symbol: str, since: int, before: int) -> Sequence[TimeRange]:
        return self._history(symbol).closed(since, before)

    def _history(self, symbol: str, timeframe: Timeframe = MINUTE) -> History:
        history = self._histories.get(symbol)
        if history is None:
            raise UnknownSymbol(f"The simulated exchange has no symbol {symbol[:50]}.")
        if timeframe not in self.timeframes:
            raise Unsupported(f"The simulated exchange has no bars of {timeframe}.")
        return history

    def _exchange_clock(self) -> Clock:
        outer = self.context.clock
        start_ms: int | None = self._settings["start"]
        if start_ms is None and self._speed == 1:
            return outer
        return ScaledClock(
            outer, start_ms=outer.now_ms() if start_ms is None else start_ms, speed=self._speed
        )


def _histories(seed: int) -> Mapping[str, History]:
    """The history of every symbol; reading the clock of New York for ninety years takes a moment."""
    calendars = {CRYPTO: around_the_clock(), US_EQUITY: new_york()}
    return {listing.symbol: History(listing, calendars[listing.market], seed) for listing in listings()}
