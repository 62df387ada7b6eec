"""Bars page by page, and what the pages of an exchange prove.

Asked for bars from a time on, an exchange answers in one of three ways, and ccxt does not say which:
it gives the first bars from there, however far away; or what lies in the stretch that a page would
fill; or its newest bars, and no older ones. So nothing is concluded from a page but what holds in each
case: what lies between its bars, and, of an empty one, the stretch.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from marketd.domain.bar import Bar
from marketd.domain.errors import HistoryEnds
from marketd.domain.timeframe import Timeframe
from marketd.domain.timerange import TimeRange

Ask = Callable[[Timeframe, int], Awaitable[list[Bar]]]


async def first_bars(
    ask: Ask,
    timeframe: Timeframe,
    since: int,
    before: int,
    limit: int,
    *,
    size: int,
    coarse: Timeframe,
    now_ms: int,
) -> list[Bar]:
    """The first `limit` bars of `[since, before)`, all of them if they are fewer.

    `ask(timeframe, since)` gives a page of at most `size` bars from `since` on. In the `coarse`
    timeframe it is asked where bars go on behind an empty stretch. Raises HistoryEnds.
    """
    bars: list[Bar] = []
    cursor = timeframe.ceil(since)
    end_ms = min(before, now_ms + 1)
    resumed_ms = cursor  # up to here it is known that bars go on
    while cursor < end_ms and len(bars) < limit:
        page = await ask(timeframe, cursor)
        if not page:
            cursor = timeframe.shift(cursor, size)
            if resumed_ms <= cursor < end_ms:
                start_ms, resumed_ms = await _resumption(ask, coarse, cursor, size)
                cursor = max(cursor, start_ms)
            continue
        page_end_ms = timeframe.end(page[-1][0])
        if len(page) >= size and page[0][0] > cursor:
            # Either nothing lies before it, or it is all that the exchange keeps: then nothing follows.
            is_newest = timeframe.end(page_end_ms) > now_ms
            if is_newest or not await ask(timeframe, page_end_ms):
                raise HistoryEnds(page[0][0])
        bars += [bar for bar in page if bar[0] < end_ms]
        cursor = page_end_ms
        if cursor >= timeframe.floor(now_ms):
            break  # only the forming bar is left, and it has none yet
    return bars[:limit]


async def _resumption(ask: Ask, coarse: Timeframe, from_ms: int, size: int) -> TimeRange:
    """The first stretch from `from_ms` on in which there may be bars: one interval, or empty."""
    start_ms = coarse.floor(from_ms)
    page = await ask(coarse, start_ms)
    later = [bar[0] for bar in page if coarse.end(bar[0]) > from_ms]
    if not later:
        start_ms = coarse.shift(start_ms, size)
        return TimeRange(start_ms, start_ms)
    return TimeRange(later[0], coarse.end(later[0]))
