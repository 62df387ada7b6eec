"""Makes live bars out of the trades of an instrument, as they are stored.

Whatever brings a trade, what is published is read from the store, by the same steps as a read over REST:
so both are the same. A trade that comes late moves the bounds of all bars behind it; these are counted
and told once more.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Sequence
from typing import Protocol

from marketd.domain.bar import Bar, Tick, open_time
from marketd.domain.coverage import Gap
from marketd.domain.errors import MarketdError
from marketd.domain.timeframe import day_of
from marketd.streaming.events import GapEvent, HealthEvent
from marketd.streaming.tick_bar_stream import TickBarStream

# So many bars are remembered: a trade that comes late begins the count anew with one of them.
_KEPT = 1_000
_MOST_NEWS = 1_000
# Not more often than this it is looked what trades there are, and at the least.
_PACE_S = 0.02
_LOOK_S = 5.0
_RETRY_S = 1.0


class Step(Protocol):
    """Bars that were closed, gaps on the way, and up to which of the instrument's news it knows all.

    It `is_torn` if trades that were counted turned out to lie in a gap.
    """

    @property
    def closed(self) -> Sequence[Bar]: ...
    @property
    def gaps(self) -> Sequence[Gap]: ...
    @property
    def seq(self) -> int: ...
    @property
    def is_last(self) -> bool: ...
    @property
    def is_torn(self) -> bool: ...


class Walk(Protocol):
    """Counts the trades of an instrument; those before `at_ms` are counted."""

    at_ms: int

    @property
    def forming(self) -> Bar | None: ...

    async def step(self, deadline_s: float, before_ms: int) -> Step:
        """Goes on before a time. What the provider does not give until `deadline_s` is a gap."""

    async def follow(self) -> Step:
        """Goes on over what is stored, as far as nothing is missing."""


class TickBarWorker:
    """Moves a stream on. It is a TapeListener.

    `walks` begins to count at a time at which a bar begins: at first at `day_ms`, the beginning of the
    day, of which the provider is asked for `patience_s`.
    """

    def __init__(
        self,
        stream: TickBarStream,
        walks: Callable[[int], Walk],
        *,
        day_ms: int,
        patience_s: float,
    ) -> None:
        self._stream = stream
        self._walks = walks
        self._patience_s = patience_s
        self._walk = walks(day_ms)
        self._health = stream.health
        # The news that no step has taken notice of: the time of its first trade, and of the first of its
        # last day, and which news it is.
        self._news: list[tuple[int, int]] = []
        self._has_news = asyncio.Event()
        self._newest_ms = 0
        # The bars before `_base_ms`, where the count is to be begun if it has to be; the latest of them.
        self._bars: list[Bar] = []
        self._base_ms = day_ms
        # What is to be told of the time from there on, and from when on it is told once more.
        self._new: list[Bar] = []
        self._gaps: list[Gap] = []
        self._again_ms: int | None = None
        self._missed_ms = 0

    def stored(self, ticks: Sequence[Tick], seq: int) -> None:
        """See TapeListener."""
        self._news += [(t_ms, seq) for t_ms in _firsts(map(open_time, ticks))]
        self._newest_ms = max(self._newest_ms, ticks[-1][0])
        if len(self._news) > _MOST_NEWS:
            times, numbers = zip(*self._news, strict=True)
            self._news = [(t_ms, max(numbers)) for t_ms in _firsts(times)]
        self._has_news.set()

    def take(self, event: GapEvent | HealthEvent) -> None:
        """See TapeListener."""
        if isinstance(event, HealthEvent):
            self._health = event
            self._stream.tell(event)
        self._has_news.set()

    async def run(self, known_ms: int) -> None:
        """Follows until cancelled. What is missing before `known_ms` nobody else will ask for."""
        has_begun = self._stream.begun.done()
        # What a crash has interrupted is counted anew.
        self._walk, self._new, self._gaps = self._walks(self._base_ms), [], []
        if not has_begun:
            self._bars = []
        while True:
            self._has_news.clear()
            try:
                if not has_begun:
                    await self._count_day(known_ms)
                    has_begun = True
                await self._go_on()
            except MarketdError as error:
                self._stream.tell(HealthEvent("down", error.message))
                await asyncio.sleep(_RETRY_S)
                continue
            self._stream.tell(self._health)
            await asyncio.sleep(_PACE_S)
            await self._rest()

    async def _rest(self) -> None:
        """Waits for news. Where trades are waited for that may be missing, they may come without any."""
        is_behind = self._newest_ms > self._walk.at_ms
        try:
            async with asyncio.timeout(_LOOK_S if is_behind else None):
                await self._has_news.wait()
        except TimeoutError:
            return

    async def _count_day(self, known_ms: int) -> None:
        """Counts what there was of the day, after which it is known where the stream stands."""
        deadline_s = asyncio.get_running_loop().time() + self._patience_s
        is_last = False
        while not is_last:
            at_ms = self._walk.at_ms
            step = await self._walk.step(deadline_s, known_ms)
            self._bars = [*self._bars, *step.closed][-_KEPT:]
            # What was fetched for the count is in it.
            self._news = [(t_ms, seq) for t_ms, seq in self._news if t_ms < at_ms or seq > step.seq]
            is_last = step.is_last
        self._base_ms = self._missed_ms = self._next_ms
        self._stream.begin(self._base_ms)

    async def _go_on(self) -> None:
        """Counts all that has come, and tells what that has made."""
        is_last = False
        while not is_last:
            at_ms = self._walk.at_ms
            step = await self._walk.follow()
            self._new += step.closed
            self._gaps += step.gaps
            late_ms = self._late(at_ms, step)
            is_last = step.is_last and late_ms is None
            if late_ms is not None:
                self._count_again(late_ms)
        next_ms = self._next_ms
        self._tell(next_ms)
        self._bars = [*self._bars, *self._new][-_KEPT:]
        self._base_ms = next_ms
        self._new, self._gaps, self._again_ms = [], [], None
        self._stream.form(self._walk.forming)

    def _tell(self, next_ms: int) -> None:
        """Tells the bars that are new, and all again from where a late trade has made a difference.

        Also those that are the same: a client may have read its history while that trade was on its way.
        """
        for gap in self._gaps:
            if gap.start_ms >= self._missed_ms:
                self._missed_ms = gap.end_ms
                self._stream.miss(gap)
        new, again_ms = self._new, self._again_ms
        if again_ms is not None:
            new = new[max(0, bisect_right(new, again_ms, key=open_time) - 1) :]
        # What opens before the time that was told up to changes what was told of it.
        is_late = bool(new) and new[0][0] < self._stream.next_ms
        if again_ms is not None or is_late:
            starts = [*map(open_time, new[:1]), *([] if again_ms is None else [again_ms]), next_ms]
            self._stream.revise(min(starts), new, next_ms)
            return
        ends = [*map(open_time, new[1:]), next_ms]
        for bar, end_ms in zip(new, ends, strict=False):
            self._stream.close(bar, end_ms)

    @property
    def _next_ms(self) -> int:
        """When the first bar opens that is not closed yet."""
        forming = self._walk.forming
        return self._walk.at_ms if forming is None else forming[0]

    def _late(self, at_ms: int, step: Step) -> int | None:
        """The time of the first trade that a step from `at_ms` on has passed over, if there is one.

        What the step knows of is no news any more, and what is of a day before those that are remembered
        changes nothing.
        """
        late = [t_ms for t_ms, _ in self._news if t_ms < at_ms]
        self._news = [(t_ms, seq) for t_ms, seq in self._news if t_ms >= at_ms and seq > step.seq]
        if step.is_torn:
            late.append(at_ms)
        first_ms = min([day_of(self._walk.at_ms), *map(open_time, self._bars[:1])])
        return min((t_ms for t_ms in late if t_ms >= first_ms), default=None)

    def _count_again(self, late_ms: int) -> None:
        """Begins the count anew before `late_ms`."""
        start_ms = self._base_ms
        if late_ms < start_ms:
            place = bisect_right(self._bars, late_ms, key=open_time) - 1
            start_ms = again_ms = self._bars[place][0] if place >= 0 else day_of(late_ms)
            if place < 0:
                if len(self._bars) == _KEPT:
                    # Of the many bars since then those before the late trade are as they were told.
                    again_ms = late_ms
                place = 0
            self._again_ms = again_ms if self._again_ms is None else min(self._again_ms, again_ms)
            self._bars = self._bars[:place]
        elif self._again_ms is not None:
            self._again_ms = min(self._again_ms, late_ms)
        self._base_ms = start_ms
        self._walk = self._walks(start_ms)
        self._new = []


def _firsts(times: Iterable[int]) -> tuple[int, int]:
    """The first of the times, and the first on their last day."""
    ordered = sorted(times)
    return ordered[0], ordered[bisect_left(ordered, day_of(ordered[-1]))]
