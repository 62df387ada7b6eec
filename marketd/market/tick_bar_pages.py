"""Bars that are measured in trades, page by page."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from sys import maxsize
from typing import NamedTuple

from marketd.domain.bar import Bar, select
from marketd.domain.coverage import Gap, Reason, lay
from marketd.domain.errors import ProviderTimeout
from marketd.domain.instrument import TickSeries
from marketd.domain.tickframe import TickBarMaker, Tickframe
from marketd.domain.timeframe import day_of
from marketd.domain.timerange import MAX_MS, MIN_MS, TimeRange
from marketd.domain.token import pack, unpack_time
from marketd.market.tapes import TapeRead, Tapes
from marketd.market.tick_counts import DayWalk, TickCounts
from marketd.market.tick_pages import raise_for
from marketd.market.tick_walk import TickWalk
from marketd.plugins.feed import TickFeed
from marketd.streaming.needs import PastBars

# After how many trades a page ends that has bars already.
_MOST_TRADES = 500_000
# How many pages are counted at once.
_AT_ONCE = 4


class TickBarsPage(NamedTuple):
    """Bars, ascending, of which the last may be forming, gaps, and the edge of the next page."""

    bars: list[Bar]
    gaps: list[Gap]
    is_forming: bool
    next_ms: int | None
    next_page_token: str | None


class _Counted(NamedTuple):
    """Bars, gaps, where the next bar opens if there was no time for it, and what was read last."""

    bars: list[Bar]
    gaps: list[Gap]
    is_forming: bool
    next_ms: int | None
    read: TapeRead


class TickBarPages:
    """Reads pages of bars. Without `since` they are looked for as far back as trades are kept."""

    def __init__(self, tapes: Tapes, *, request_timeout_ms: int, keep_ms: int) -> None:
        self._tapes = tapes
        self._request_timeout_s = request_timeout_ms / 1000
        self._keep_ms = keep_ms
        self._counts = TickCounts(tapes, keep_ms=keep_ms)
        self._places = asyncio.Semaphore(_AT_ONCE)

    async def page(
        self,
        feed: TickFeed,
        frame: Tickframe,
        *,
        since: int | None,
        before: int | None,
        limit: int,
        page_token: str | None,
    ) -> TickBarsPage:
        """The first `limit` bars that open from `since` on, else the last ones before `before`.

        Perhaps fewer, if they are made of very many trades. The newest bar of all is forming. Raises the
        provider's failure if it left nothing to answer with, and ProviderTimeout if there was no time to
        count as far as the first bar.
        """
        deadline_s = asyncio.get_running_loop().time() + self._request_timeout_s
        end_ms = MAX_MS if before is None else before
        try:
            async with asyncio.timeout_at(deadline_s):
                await self._places.acquire()
        except TimeoutError:
            raise _late(feed) from None
        try:
            if since is None:
                if page_token:
                    end_ms = unpack_time(page_token, f"{frame}-before", field="page_token")
                return await self._last(feed, frame, end_ms, limit, deadline_s)
            start_ms = day_of(since)
            if page_token:
                start_ms = since = unpack_time(page_token, f"{frame}-since", field="page_token")
            span = TimeRange(since, end_ms)
            return await self._first(feed, frame, start_ms, span, limit, deadline_s)
        finally:
            self._places.release()

    def walk(self, feed: TickFeed, frame: Tickframe, at_ms: int) -> TickWalk:
        """Counts from `at_ms` on, where a bar begins."""
        return TickWalk(self._tapes, feed, TickBarMaker(frame), at_ms)

    async def past(
        self, feed: TickFeed, series: TickSeries, *, since: int, before: int, limit: int
    ) -> PastBars:
        """The first `limit` closed bars that open in `[since, before)`, for clients that join."""
        page = await self.page(
            feed, series.timeframe, since=since, before=before, limit=limit, page_token=None
        )
        closed = page.bars[:-1] if page.is_forming else page.bars
        return PastBars(closed, before if page.next_ms is None else page.next_ms, page.gaps)

    async def _first(
        self,
        feed: TickFeed,
        frame: Tickframe,
        start_ms: int,
        span: TimeRange,
        limit: int,
        deadline_s: float,
    ) -> TickBarsPage:
        """The first `limit` bars that open in `span`, counted from `start_ms` on."""
        bars, gaps, is_forming, next_ms, read = await self._counted(
            feed, frame, start_ms, span, deadline_s, enough=limit
        )
        if len(bars) > limit:
            next_ms = bars[limit][0]
            del bars[limit:]
        if gaps and not bars:
            raise_for(feed, read)
        if next_ms is None:
            return TickBarsPage(bars, _told(gaps, span), is_forming, None, None)
        reach = TimeRange(span.start_ms, next_ms)
        token = pack(f"{frame}-since", str(next_ms))
        return TickBarsPage(bars, _told(gaps, reach), False, next_ms, token)

    async def _last(
        self, feed: TickFeed, frame: Tickframe, end_ms: int, limit: int, deadline_s: float
    ) -> TickBarsPage:
        """The last `limit` bars before `end_ms`, day by day."""
        reach = TimeRange(max(MIN_MS, min(end_ms, feed.provider.now_ms()) - self._keep_ms), end_ms)
        bars: list[Bar] = []
        gaps: list[Gap] = []
        is_forming = False
        # Before this time nothing was counted.
        first_ms = end_ms
        while len(bars) <= limit:
            span = TimeRange(reach.start_ms, first_ms)
            read = await self._tapes.read(feed, span, limit=1, newest=True, deadline_s=deadline_s)
            gaps += read.gaps
            if not read.ticks:
                if gaps and not bars:
                    raise_for(feed, read)
                return TickBarsPage(bars, _told(gaps, reach), is_forming, None, None)
            day = TimeRange(day_of(read.ticks[0][0]), first_ms)
            try:
                counted = await self._counted(
                    feed, frame, day.start_ms, day, deadline_s, newest=limit + 1
                )
            except ProviderTimeout:
                if not bars:
                    raise
                break
            is_forming = counted.is_forming if not bars else is_forming
            bars = counted.bars + bars
            gaps += counted.gaps
            first_ms = day.start_ms
        bars = bars[-limit:]
        first_ms = bars[0][0]
        reach = TimeRange(first_ms, end_ms)
        token = pack(f"{frame}-before", str(first_ms))
        return TickBarsPage(bars, _told(gaps, reach), is_forming, first_ms, token)

    async def _counted(
        self,
        feed: TickFeed,
        frame: Tickframe,
        start_ms: int,
        span: TimeRange,
        deadline_s: float,
        *,
        enough: int = maxsize,
        newest: int = maxsize,
    ) -> _Counted:
        """The bars that open in `span`, counted from `start_ms` on.

        It stops when there are more than `enough`, or some and much was read for them, or the time is
        over; of more than the `newest` it keeps these. Raises ProviderTimeout if the time does not allow
        for one, or for all if they are to be the newest.
        """
        async with self._counts.walk(
            feed, frame, start_ms, span=span, newest=newest, deadline_s=deadline_s
        ) as walk:
            return await _walked(feed, walk, span, deadline_s, enough, newest)


async def _walked(
    feed: TickFeed,
    walk: TickWalk | DayWalk,
    span: TimeRange,
    deadline_s: float,
    enough: int,
    newest: int,
) -> _Counted:
    """See TickBarPages._counted."""
    loop = asyncio.get_running_loop()
    bars: list[Bar] = []
    gaps: list[Gap] = []
    trades = 0
    while True:
        step = await walk.step(deadline_s)
        gaps += step.gaps
        trades += len(step.read.ticks)
        bars += select(step.closed, since=span.start_ms, before=span.end_ms)
        bars = bars[-newest:]
        forming = walk.forming
        if step.is_last or (forming is not None and forming[0] >= span.end_ms):
            is_forming = forming is not None and span.start_ms <= forming[0] < span.end_ms
            bars += [forming] if is_forming and forming is not None else []
            return _Counted(bars[-newest:], gaps, is_forming, None, step.read)
        is_late = loop.time() > deadline_s
        if is_late and (not bars or newest < maxsize):
            raise _late(feed)
        much = trades > _MOST_TRADES and newest == maxsize
        if forming is not None and (len(bars) > enough or (bars and (much or is_late))):
            return _Counted(bars, gaps, False, forming[0], step.read)


def _told(gaps: Sequence[Gap], reach: TimeRange) -> list[Gap]:
    """The gaps that a page with bars of `reach` tells.

    One that may still be filled, and lies before them on their day, decides where they begin.
    """
    return [
        gap
        for gap in lay([], gaps)
        if gap.start_ms < reach.end_ms
        and (gap.end_ms > reach.start_ms or gap.reason is not Reason.UNRECOVERABLE)
    ]


def _late(feed: TickFeed) -> ProviderTimeout:
    return ProviderTimeout(
        f"The trades of {feed.provider.name} could not be counted within the time of a request."
    )
