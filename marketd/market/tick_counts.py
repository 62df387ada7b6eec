"""How far days were counted: whoever polls the newest bars does not have their day counted each time.

A count goes on where one before it was, as long as nothing has changed there. A trade that comes late is
heard of, or found by its number if another process has stored it, and takes what is known back to the
bar that holds it; of gaps that were filled the coverage tells whenever it is read.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import OrderedDict
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import NamedTuple

from marketd.domain.bar import Bar, Tick, open_time
from marketd.domain.coverage import Gap
from marketd.domain.instrument import Instrument
from marketd.domain.tickframe import TickBarMaker, Tickframe
from marketd.domain.timeframe import DAY_MS, day_of
from marketd.domain.timerange import MAX_MS, TimeRange, merge
from marketd.market.tapes import TapeRead, Tapes
from marketd.market.tick_walk import Step, TickWalk
from marketd.plugins.feed import TickFeed

# How many bars of a day are remembered: the largest page, and one that says whether there are others.
_KEPT = 10_001
# How many of all days, each of which takes as much room as some bars by itself.
_MOST = 100_000
_ROOM_OF_DAY = 100


class _Day(NamedTuple):
    instrument: Instrument
    frame: Tickframe
    start_ms: int


class _Counted(NamedTuple):
    """A day, counted up to `at_ms`: its closed bars from `since_ms` on, and its gaps.

    No trade before `at_ms` that is not in it has a number up to `number`, see `Storage.ticks_after`.
    """

    at_ms: int
    number: int
    since_ms: int
    bars: list[Bar]
    gaps: list[Gap]
    maker: TickBarMaker

    def plus(self, step: Step, walk: TickWalk) -> _Counted:
        """The same once `walk` has gone that step on."""
        bars = [*self.bars, *step.closed]
        since_ms = self.since_ms
        if len(bars) > _KEPT:
            bars = bars[-_KEPT:]
            since_ms = bars[0][0]
        gaps = [*self.gaps, *step.gaps]
        return _Counted(walk.at_ms, self.number, since_ms, bars, gaps, walk.maker.copy())

    def before(self, late_ms: int, frame: Tickframe) -> _Counted | None:
        """What is left of it if a trade comes at `late_ms`: all before the bar that would hold it."""
        if late_ms >= self.at_ms:
            return self
        bars = self.bars if self.maker.forming is None else [*self.bars, self.maker.forming]
        place = bisect_right(bars, late_ms, key=open_time) - 1
        if place < 0:
            return None
        at_ms = bars[place][0]
        gaps = [gap for gap in self.gaps if gap.start_ms < at_ms]
        return _Counted(at_ms, self.number, self.since_ms, bars[:place], gaps, TickBarMaker(frame))

    def has(self, span: TimeRange, newest: int) -> bool:
        """Whether the bars that open in `span` are among those that are known, or the `newest` are."""
        known = bisect_left(self.bars, span.end_ms, key=open_time)
        return self.since_ms <= span.start_ms or known >= newest

    def is_true(self, start_ms: int, read: TapeRead, sure_ms: int) -> bool:
        """Whether the gaps are still the same."""
        span = TimeRange(start_ms, self.at_ms)
        gaps = merge(gap.range.clip(span) for gap in read.gaps)
        return self.at_ms <= sure_ms and gaps == merge(gap.range for gap in self.gaps)


class DayWalk:
    """Counts as a TickWalk does; its first step gives what is known, if anything is.

    What it counts before `sure_ms` is remembered, as far as no trade has come meanwhile: the earliest of
    them was at `late_ms`.
    """

    def __init__(
        self,
        walk: TickWalk,
        known: _Counted,
        read: TapeRead,
        sure_ms: int,
        remember: Callable[[_Counted], None],
    ) -> None:
        self.late_ms = MAX_MS
        self._walk = walk
        self._counted = known
        self._read = read if known.at_ms > read.reach.start_ms else None
        self._sure_ms = sure_ms
        self._remember = remember

    @property
    def forming(self) -> Bar | None:
        """See TickWalk."""
        return self._walk.forming

    async def step(self, deadline_s: float) -> Step:
        """See TickWalk."""
        known = self._counted
        if self._read is not None:
            read, self._read = self._read, None
            return Step(known.bars, known.gaps, read, is_last=False, is_torn=False)
        if self._walk.at_ms >= self._sure_ms:
            return await self._walk.step(deadline_s)
        step = await self._walk.step(deadline_s, self._sure_ms)
        self._counted = known.plus(step, self._walk)
        if self._counted.at_ms <= self.late_ms:
            self._remember(self._counted)
        return step._replace(is_last=False)


class TickCounts:
    """Remembers how far days were counted, as many as there is room for."""

    def __init__(self, tapes: Tapes, *, keep_ms: int) -> None:
        self._tapes = tapes
        self._keep_ms = keep_ms
        self._days: OrderedDict[_Day, _Counted] = OrderedDict()
        self._walks: dict[DayWalk, Instrument] = {}
        tapes.watch(self._came)

    @asynccontextmanager
    async def walk(
        self,
        feed: TickFeed,
        frame: Tickframe,
        start_ms: int,
        *,
        span: TimeRange,
        newest: int,
        deadline_s: float,
    ) -> AsyncIterator[TickWalk | DayWalk]:
        """Counts from `start_ms` on, where a bar begins, for the bars that open in `span`, or the
        `newest` of them.

        A day of which trades may have been deleted is counted from its beginning.
        """
        is_whole = start_ms >= feed.provider.now_ms() - self._keep_ms
        if start_ms != day_of(start_ms) or not is_whole:
            yield TickWalk(self._tapes, feed, TickBarMaker(frame), start_ms)
            return
        whole = TimeRange(start_ms, start_ms + DAY_MS)
        read = await self._tapes.read(feed, whole, limit=0, deadline_s=deadline_s, asks=False)
        sure_ms = _sure_ms(feed, read)
        day = _Day(feed.instrument, frame, start_ms)
        nothing = _Counted(start_ms, read.number, start_ms, [], [], TickBarMaker(frame))
        number = MAX_MS
        while self._days.get(day, nothing).number < number:
            # Others that count the same may put what they know in its place meanwhile.
            number = self._days.get(day, nothing).number
            late_ms = await self._tapes.earliest(feed, number, read.number)
        known = self._days.pop(day, nothing).before(late_ms, frame) or nothing
        if not known.is_true(start_ms, read, sure_ms):
            known = nothing
        elif known is not nothing:
            known = known._replace(number=max(known.number, read.number))
            self._put(day, known)
        if not known.has(span, newest):
            known = nothing
        walk = TickWalk(self._tapes, feed, known.maker.copy(), known.at_ms)
        going = DayWalk(walk, known, read, sure_ms, lambda counted: self._remember(day, counted))
        self._walks[going] = feed.instrument
        try:
            yield going
        finally:
            del self._walks[going]

    def _remember(self, day: _Day, counted: _Counted) -> None:
        known = self._days.get(day)
        if known is None or known.at_ms < counted.at_ms:
            self._put(day, counted)

    def _put(self, day: _Day, counted: _Counted) -> None:
        self._days[day] = counted
        self._days.move_to_end(day)
        while sum(len(one.bars) + _ROOM_OF_DAY for one in self._days.values()) > _MOST:
            self._days.popitem(last=False)

    def _came(self, feed: TickFeed, ticks: Sequence[Tick], is_live: bool) -> None:
        """Trades, ascending, are new in the store; see Tapes.watch."""
        first_ms, last_ms = ticks[0][0], ticks[-1][0]
        for walk, instrument in self._walks.items():
            if instrument == feed.instrument:
                walk.late_ms = min(walk.late_ms, first_ms)
        late = [
            (day, counted)
            for day, counted in self._days.items()
            if first_ms < counted.at_ms and day.start_ms <= last_ms and day.instrument == feed.instrument
        ]
        for day, counted in late:
            left = counted.before(first_ms, day.frame)
            if left is None:
                del self._days[day]
            else:
                self._days[day] = left


def _sure_ms(feed: TickFeed, read: TapeRead) -> int:
    """Up to when all trades are known that will ever be, but for those that come late."""
    if feed.provider.has_tick_history and read.gaps:
        # It may be had when it is asked for again.
        return min(read.newest_ms, read.gaps[0].start_ms)
    return read.newest_ms
