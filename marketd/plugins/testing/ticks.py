"""The checks of trades: as they happen, and of the past."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import cast

from marketd.domain.bar import Tick, tick_fault
from marketd.plugins.base import MarketPlugin, TickHistory, TickStreams
from marketd.plugins.testing.streams import StreamChecks

_TOLD = 5
_HISTORY_LOOKS_S = 0.05


class TickChecks(StreamChecks):
    """What a provider with TickStreams or TickHistory is held to."""

    def test_ticks_ascend_and_are_trades(self) -> None:
        async def check(plugin: MarketPlugin) -> None:
            await self._told(plugin)

        self.run(check)

    def test_past_ticks_keep_to_range_and_limit(self) -> None:
        """Pages of any size, put together, are the whole."""

        async def check(plugin: MarketPlugin) -> None:
            ticks = await self._past(plugin, self.since_ms, self.before_ms)
            assert len(ticks) >= 3, f"there have to be three trades in the range, not {len(ticks)}"
            since_ms, before_ms = ticks[1][0], ticks[-1][0]
            inside = [tick for tick in ticks if since_ms <= tick[0] < before_ms]
            assert await self._past(plugin, since_ms, before_ms) == inside, "the range is not kept to"
            assert not await self._past(plugin, since_ms, since_ms), "an empty range holds a trade"
            for limit in (2, len(ticks) - 1):
                page = await self._past(plugin, self.since_ms, self.before_ms, limit)
                assert page == ticks[:limit], f"these are not the first {limit} trades"

        self.run(check)

    def test_past_ticks_hold_what_the_stream_told(self) -> None:
        async def check(plugin: MarketPlugin) -> None:
            if not isinstance(plugin, TickStreams):
                return
            told = await self._told(plugin)
            # The vendor's history may learn of a trade a little later than its stream.
            while told:
                known = await self._past(plugin, told[0][0], told[-1][0] + 1)
                told = [tick for tick in told if tick not in known]
                await asyncio.sleep(_HISTORY_LOOKS_S if told else 0)

        self.run(check)

    async def _told(self, plugin: MarketPlugin) -> list[Tick]:
        """The first trades of the stream."""
        told: list[Tick] = []
        stream = cast(TickStreams, plugin).stream_ticks(self.symbol)
        async with self.reading(plugin, stream) as batches:
            while len(told) < _TOLD:
                told += _checked(await anext(batches), plugin, after_ms=told[-1][0] if told else 0)
        return told

    async def _past(
        self, plugin: MarketPlugin, since_ms: int, before_ms: int, limit: int | None = None
    ) -> list[Tick]:
        history = cast(TickHistory, plugin)
        limit = history.tick_page_limit if limit is None else limit
        ticks = await history.fetch_ticks(self.symbol, since_ms, before_ms, limit)
        assert len(ticks) <= limit, "the page is longer than the limit"
        return _checked(ticks, plugin, after_ms=0)


def _checked(ticks: Sequence[Tick], plugin: MarketPlugin, *, after_ms: int) -> list[Tick]:
    for tick in ticks:
        fault = tick_fault(tick, plugin.clock.now_ms())
        assert fault is None, f"the trade {tick!r} cannot be right: {fault}"
        assert tick[0] >= after_ms, f"the trade of {tick[0]} comes after {after_ms}"
        after_ms = tick[0]
    return list(ticks)
