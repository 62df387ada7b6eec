"""Counts trades into the bars that are measured in them.

Bars are counted from the beginning of a UTC day on, so that a bar is the same whoever asks for it and
however. A trade within a gap is in no bar, and no bar reaches over a gap.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left
from collections.abc import Sequence
from math import inf
from typing import NamedTuple

from marketd.domain.bar import Bar, Tick, open_time
from marketd.domain.coverage import Gap
from marketd.domain.tickframe import TickBarMaker
from marketd.domain.timerange import MAX_MS, TimeRange
from marketd.market.tapes import TapeRead, Tapes
from marketd.plugins.feed import TickFeed

# How many trades are read at once, and counted before the loop turns: another thread would hold the loop
# up for longer, since it gives the interpreter back every 5 ms only.
_READ = 10_000
_AT_ONCE = 500


class Step(NamedTuple):
    """The bars that a step has closed, the gaps on its way, and whether there is no more at present.

    It `is_torn` if it has found out that a gap begins with trades which an earlier step has counted.
    """

    closed: list[Bar]
    gaps: list[Gap]
    read: TapeRead
    is_last: bool
    is_torn: bool

    @property
    def seq(self) -> int:
        """How much of the instrument's news it knows: see TapeRead."""
        return self.read.seq


class TickWalk:
    """Counts an instrument's trades in order: a new `maker` begins at `at_ms`, where a bar begins.

    All that lies before `at_ms` is counted, and of its millisecond what was there.
    """

    def __init__(self, tapes: Tapes, feed: TickFeed, maker: TickBarMaker, at_ms: int) -> None:
        self.at_ms = at_ms
        self.maker = maker
        self._taken = 0
        self._tapes = tapes
        self._feed = feed
        self._limit = _READ

    @property
    def forming(self) -> Bar | None:
        """The bar that is not closed yet."""
        return self.maker.forming

    async def step(self, deadline_s: float, before_ms: int = MAX_MS) -> Step:
        """Goes on over some trades before a time, as far as there are any.

        What the provider does not give until `deadline_s` is a gap.
        """
        read = await self._read(before_ms, deadline_s, asks=True)
        is_last = len(read.ticks) < self._limit
        end_ms = before_ms if is_last else read.ticks[-1][0]
        gaps = read.gaps
        if is_last and before_ms == MAX_MS:
            # That nothing is known behind the newest trades does not end the bar that forms.
            gaps = [gap for gap in gaps if gap.end_ms <= read.newest_ms]
        closed = await self._count([tick for tick in read.ticks if tick[0] < end_ms], gaps, end_ms)
        return Step(closed, read.gaps, read, is_last, is_torn=False)

    async def follow(self) -> Step:
        """Goes on over some stored trades, as far as it is certain that none is missing before them.

        A gap that may still be filled is waited for. The first trade whose millisecond is not over yet
        counts, too: what there is before it is known.
        """
        read = await self._read(MAX_MS, inf, asks=False)
        end_ms = max(self.at_ms, read.known_ms)
        is_last = len(read.ticks) < self._limit or end_ms <= read.ticks[-1][0]
        if not is_last:
            end_ms = read.ticks[-1][0]
        gaps = [gap for gap in read.gaps if gap.end_ms <= end_ms]
        is_torn = self._taken > 0 and bool(gaps) and gaps[0].start_ms == self.at_ms
        closed = await self._count([tick for tick in read.ticks if tick[0] <= end_ms], gaps, end_ms)
        return Step(closed, gaps, read, is_last, is_torn)

    async def _read(self, before_ms: int, deadline_s: float, *, asks: bool) -> TapeRead:
        while True:
            span = TimeRange(self.at_ms, before_ms)
            read = await self._tapes.read(
                self._feed, span, limit=self._limit, deadline_s=deadline_s, asks=asks
            )
            if len(read.ticks) < self._limit or read.ticks[-1][0] > self.at_ms:
                return read
            # A millisecond with more trades than are read at once.
            self._limit *= 2

    async def _count(self, ticks: Sequence[Tick], gaps: Sequence[Gap], end_ms: int) -> list[Bar]:
        """Adds what of `ticks`, all there are up to `end_ms`, was not counted yet."""
        new = ticks[self._taken :]
        counted = self._taken if end_ms == self.at_ms else 0
        self.at_ms = end_ms
        self._taken = counted + len(new) - bisect_left(new, end_ms, key=open_time)
        closed: list[Bar] = []
        place = 0
        for gap in gaps:
            closed += await self._take(new[place : bisect_left(new, gap.start_ms, key=open_time)])
            self.maker.cut()
            place = bisect_left(new, gap.end_ms, key=open_time)
        return closed + await self._take(new[place:])

    async def _take(self, ticks: Sequence[Tick]) -> list[Bar]:
        """The bars that `ticks` close."""
        closed: list[Bar] = []
        for first in range(0, len(ticks), _AT_ONCE):
            if first:
                await asyncio.sleep(0)
            closed += self.maker.take(ticks[first : first + _AT_ONCE])
        return closed
