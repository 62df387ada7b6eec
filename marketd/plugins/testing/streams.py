"""The checks of streams of bars: order, closes, agreement with history, beginning anew."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from typing import Any, cast

from marketd.domain.bar import Bar, bar_fault
from marketd.domain.errors import MarketdError
from marketd.domain.timeframe import Timeframe
from marketd.plugins.base import BarStreams, BarUpdate, MarketPlugin
from marketd.plugins.testing.base import KitBase, raising

_CLOSED = 2
_HISTORY_LOOKS_S = 0.05


class StreamChecks(KitBase):
    """What a provider with BarStreams is held to."""

    def test_stream_of_bars_ascends_and_each_closes_once(self) -> None:
        async def check(plugin: MarketPlugin) -> None:
            begun_ms = plugin.clock.now_ms()
            timeframe = Timeframe.parse(self.stream_timeframe)
            open_ms, closed_ms = timeframe.floor(begun_ms), -1
            told: dict[int, Bar] = {}
            async with self._bars(plugin) as updates:
                for update in await _until_closed(updates, _CLOSED + 1):
                    fault = bar_fault(update.bar, timeframe)
                    assert fault is None, f"the bar {update.bar!r} cannot be right: {fault}"
                    t_ms = update.bar[0]
                    if update.closed and told.get(t_ms, update.bar) != update.bar:
                        told[t_ms] = update.bar  # a correction
                        continue
                    assert t_ms >= open_ms, f"the bar of {t_ms} comes late, or is of the past"
                    assert t_ms > closed_ms, f"the bar of {t_ms} is told again after its close"
                    assert t_ms <= plugin.clock.now_ms(), f"the bar of {t_ms} has not begun"
                    open_ms = t_ms
                    if update.closed:
                        assert timeframe.end(t_ms) <= plugin.clock.now_ms(), f"{t_ms} is not over"
                        closed_ms = t_ms
                        told[t_ms] = update.bar

        self.run(check)

    def test_stream_and_history_agree(self) -> None:
        async def check(plugin: MarketPlugin) -> None:
            async with self._bars(plugin) as updates:
                told = await _until_closed(updates, _CLOSED)
            # What was told last as closed is final; history may have it a little later.
            for bar in {update.bar[0]: update.bar for update in told if update.closed}.values():
                known: list[Bar] = []
                while not known:
                    known = await self._history_of(plugin, bar[0])
                    await asyncio.sleep(0 if known else _HISTORY_LOOKS_S)
                assert known == [bar], f"the stream closed {bar!r}, history has {known[0]!r}"

        self.run(check)

    def test_stream_of_bars_begins_anew(self) -> None:
        """After it was closed, and after the vendor cut it, which it has to tell."""

        async def check(plugin: MarketPlugin) -> None:
            async with self._bars(plugin) as updates:
                await anext(updates)
            async with self._bars(plugin) as updates:
                await anext(updates)
                if await self.disconnect(plugin):
                    with raising(MarketdError):
                        await _drained(updates)
            async with self._bars(plugin) as updates:
                await anext(updates)

        self.run(check)

    def test_stream_of_bars_can_be_cancelled(self) -> None:
        async def check(plugin: MarketPlugin) -> None:
            async with self._bars(plugin) as updates:
                reading = asyncio.ensure_future(_drained(updates))
                await asyncio.sleep(0)
                reading.cancel()
                await asyncio.wait([reading])
                assert reading.cancelled(), "the stream went on, or ended, instead of being cancelled"

        self.run(check)

    @asynccontextmanager
    async def _bars(self, plugin: MarketPlugin) -> AsyncIterator[AsyncIterator[BarUpdate]]:
        stream = cast(BarStreams, plugin).stream_bars(
            self.symbol, Timeframe.parse(self.stream_timeframe)
        )
        async with self.reading(plugin, stream) as updates:
            yield updates

    @asynccontextmanager
    async def reading(
        self, plugin: MarketPlugin, stream: AsyncIterator[Any]
    ) -> AsyncIterator[AsyncIterator[Any]]:
        """`stream`, while the vendor goes on."""
        live = asyncio.ensure_future(self.live(plugin))
        try:
            async with aclosing(cast(AsyncGenerator[Any, None], stream)):
                yield stream
        finally:
            live.cancel()
            await asyncio.wait([live])

    async def _history_of(self, plugin: MarketPlugin, t_ms: int) -> list[Bar]:
        timeframe = Timeframe.parse(self.stream_timeframe)
        return list(
            await plugin.fetch_ohlcv(self.symbol, timeframe, t_ms, t_ms + 1, 1, self.loaded_params)
        )


async def _until_closed(updates: AsyncIterator[BarUpdate], count: int) -> Sequence[BarUpdate]:
    told: list[BarUpdate] = []
    async for update in updates:
        told.append(update)
        count -= update.closed
        if not count:
            return told
    raise AssertionError("the stream ended: it has to go on, or to raise")


async def _drained(updates: AsyncIterator[Any]) -> None:
    async for _ in updates:
        continue
