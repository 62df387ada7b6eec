"""What a stream of bars would say of the forming bar, for a provider that streams trades alone."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from math import fsum

from marketd.domain.bar import Bar, Tick
from marketd.domain.coverage import Gap, Reason
from marketd.domain.timeframe import Timeframe
from marketd.domain.timerange import MAX_MS, TimeRange
from marketd.plugins.base import BarUpdate
from marketd.plugins.feed import Feed
from marketd.streaming.events import GapEvent, HealthEvent, TickEvent
from marketd.streaming.tapes import TapeService

# How often a forming bar is told at the most.
_PACE_S = 0.25
# The most trades that may wait while those before them are read, and that are read.
_MOST_WAITING = 100_000


async def follow_trades(feed: Feed, tapes: TapeService) -> AsyncGenerator[BarUpdate | HealthEvent, None]:
    """The forming bar whenever there were trades, and what becomes of the stream that tells them."""
    tape, timeframe = feed.tape, feed.series.timeframe
    assert tape is not None  # noqa: S101 - it is why this is called
    forming = _Forming(timeframe, is_live_only=feed.is_of_live_trades)
    tapes.listen(tape, forming)
    try:
        span = TimeRange(timeframe.floor(feed.provider.now_ms()), MAX_MS)
        read = await tapes.read(tape, span, limit=_MOST_WAITING)
        forming.begin(read.ticks, read.gaps, read.seq)
        told: Bar | None = None
        while True:
            await forming.has_news.wait()
            forming.has_news.clear()
            if forming.health is not None:
                yield forming.health
                forming.health = None
            settled_ms = feed.present().settled_end_ms
            bar = forming.bar(settled_ms)
            if bar is not None and bar != told:
                yield BarUpdate(bar, closed=False)
                told = bar
            await asyncio.sleep(_PACE_S)
            if forming.newest_ms > settled_ms:
                # The interval before it has still to settle.
                forming.has_news.set()
    finally:
        tapes.leave(tape, forming)


class _Forming:
    """The bars that have not closed, as an instrument's news make them up."""

    def __init__(self, timeframe: Timeframe, *, is_live_only: bool) -> None:
        self.has_news = asyncio.Event()
        self.health: HealthEvent | None = None
        self.newest_ms = 0
        self._timeframe = timeframe
        self._is_live_only = is_live_only
        self._bars: dict[int, _Bar] = {}
        self._since_ms = 0
        self._broken_until_ms = 0
        self._waiting: list[TickEvent] | None = []
        self._count = 0

    def stored(self, ticks: Sequence[Tick], seq: int) -> None:
        """See TapeListener."""
        if self._waiting is None:
            self._add(ticks)
        else:
            self._wait(self._waiting, TickEvent(ticks, seq))
        self.has_news.set()

    def take(self, event: GapEvent | HealthEvent) -> None:
        """See TapeListener."""
        if isinstance(event, GapEvent):
            self._break(event.gap)
        else:
            self.health = event
        self.has_news.set()

    def begin(self, ticks: Sequence[Tick], gaps: Sequence[Gap], seq: int) -> None:
        """Takes what was stored before, which holds the news up to `seq`."""
        for gap in gaps:
            # What a stream has still to tell is no gap of its.
            if not (self._is_live_only and gap.reason is Reason.PENDING):
                self._break(gap)
        if len(ticks) == _MOST_WAITING:
            self._broken_until_ms = self._timeframe.end(ticks[-1][0])
        self._add(ticks)
        waiting, self._waiting = self._waiting, None
        for event in waiting or ():
            if event.seq > seq:
                self._add(event.ticks)
        self.has_news.set()

    def bar(self, t_ms: int) -> Bar | None:
        """The bar that opens then; those before are not asked for any more."""
        self._since_ms = t_ms
        self._bars = {start_ms: bar for start_ms, bar in self._bars.items() if start_ms >= t_ms}
        bar = self._bars.get(t_ms)
        return bar.whole() if bar is not None and t_ms >= self._broken_until_ms else None

    def _add(self, ticks: Sequence[Tick]) -> None:
        for tick in ticks:
            t_ms = self._timeframe.floor(tick[0])
            if t_ms < self._since_ms:
                continue
            bar = self._bars.get(t_ms)
            if bar is None:
                self._bars[t_ms] = _Bar(t_ms, tick)
                self.newest_ms = max(self.newest_ms, t_ms)
            else:
                bar.add(tick)

    def _wait(self, waiting: list[TickEvent], event: TickEvent) -> None:
        self._count += len(event.ticks)
        if self._count <= _MOST_WAITING:
            waiting.append(event)
        else:
            self._broken_until_ms = self._timeframe.end(event.ticks[-1][0])

    def _break(self, gap: Gap) -> None:
        """No bar is told of a part of its trades."""
        self._broken_until_ms = max(self._broken_until_ms, self._timeframe.ceil(gap.end_ms))


class _Bar:
    """One bar; its trades may come in any order."""

    def __init__(self, t_ms: int, tick: Tick) -> None:
        self._t_ms = t_ms
        self._first_ms, self._open, size, _, _ = tick
        self._last_ms, self._close = self._first_ms, self._open
        self._high = self._low = self._open
        self._sizes = [size]

    def add(self, tick: Tick) -> None:
        t_ms, price, size, _, _ = tick
        if t_ms < self._first_ms:
            self._first_ms, self._open = t_ms, price
        if t_ms >= self._last_ms:
            self._last_ms, self._close = t_ms, price
        self._high, self._low = max(self._high, price), min(self._low, price)
        self._sizes.append(size)

    def whole(self) -> Bar:
        return (self._t_ms, self._open, self._high, self._low, self._close, fsum(self._sizes))
