"""What a stream would say, for a provider without one: its history is asked again and again."""

from __future__ import annotations

import random
from collections.abc import AsyncGenerator

from marketd.domain.timeframe import Timeframe
from marketd.domain.timerange import TimeRange
from marketd.plugins.base import BarUpdate
from marketd.plugins.feed import Feed
from marketd.streaming.needs import History

_SHORTEST_MS, _LONGEST_MS = 1_000, 15_000
# How many closed bars are asked for anew each time, so that what has been corrected is seen.
OVERLAP = 2


async def poll(feed: Feed, history: History, *, lag_ms: int) -> AsyncGenerator[BarUpdate | int, None]:
    """The time up to which every bar is stored, then the forming bar; again and again.

    `lag_ms` after each close, and ten times an interval within reason.
    """
    timeframe, clock = feed.series.timeframe, feed.provider.plugin.clock
    while True:
        now_ms, _, settled_ms = feed.present()
        asked = TimeRange(timeframe.shift(settled_ms, -OVERLAP), timeframe.end(now_ms))
        await history.refetch(feed, asked, background=False)
        yield settled_ms
        # The answer has brought it along.
        forming = await history.forming(feed)
        if forming is not None:
            yield BarUpdate(forming, closed=False)
        await clock.sleep_until(next_poll_ms(timeframe, clock.now_ms(), lag_ms) + _jitter_ms(timeframe))


def next_poll_ms(timeframe: Timeframe, now_ms: int, lag_ms: int) -> int:
    """When to ask next, but for the jitter: a period later, but no later than the next close allows."""
    period_ms = _period_ms(timeframe)
    since_ms = timeframe.floor(now_ms - lag_ms) + lag_ms
    grid_ms = since_ms + ((now_ms - since_ms) // period_ms + 1) * period_ms
    return min(grid_ms, timeframe.end(now_ms - lag_ms) + lag_ms)


def _period_ms(timeframe: Timeframe) -> int:
    return min(max(timeframe.nominal_ms // 10, _SHORTEST_MS), _LONGEST_MS)


def _jitter_ms(timeframe: Timeframe) -> int:
    """Keeps many series that close at the same time from asking at the same time."""
    return random.randrange(_period_ms(timeframe) // 4)  # noqa: S311 - jitter
