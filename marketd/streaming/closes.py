"""Sees to it that intervals close of which a stream says nothing: whether they had no trade is asked."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from marketd.plugins.feed import Feed

# How often it is looked whether the trades of an interval that has closed are all told.
_LOOK_S = 0.25
# The longest time of a quiet market that one look is left to prove.
_MOST_PATIENCE_MS = 5_000


async def watch_closes(
    feed: Feed,
    look: Callable[[int], Awaitable[None]],
    *,
    passed_ms: int,
    lag_ms: int,
    told_ms: Callable[[], int],
) -> None:
    """Calls `look` with the time up to which every bar should have been reported, as that moves on.

    It begins at `passed_ms` and stays `lag_ms` behind the clock. A look at what the stream has not
    proven is a request, so it is taken with patience: the longer it is since `told_ms`, the newest bar
    that anybody has told, the more intervals one look proves. An interval of which something was told,
    and the one after it, wait for nothing.
    """
    clock, timeframe = feed.provider.plugin.clock, feed.series.timeframe
    # Whose requests are not counted need not be spared.
    most_patience_ms = _MOST_PATIENCE_MS if feed.provider.rate_limit else 0
    due_ms = reached_ms = passed_ms
    while True:
        if reached_ms < due_ms:
            await asyncio.sleep(_LOOK_S)
        else:
            await clock.sleep_until(timeframe.end(due_ms) + lag_ms)
        # The clock may have jumped over several closes.
        due_ms = timeframe.floor(clock.now_ms() - lag_ms)
        reached_ms = min(due_ms, feed.present().settled_end_ms)
        patience_ms = min(passed_ms - told_ms(), most_patience_ms)
        if feed.known_ms > passed_ms:
            # What comes next the stream has proven, or it has told a trade of it.
            patience_ms = 0
        if reached_ms > passed_ms and reached_ms - passed_ms >= patience_ms:
            passed_ms = reached_ms
            await look(passed_ms)
