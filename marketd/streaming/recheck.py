"""Fetches bars once more some time after their close: what is corrected by then is stored, and told.

A provider whose stream has the last word (`is_authoritative`) is spared that.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable

from marketd.domain.errors import MarketdError
from marketd.domain.timerange import TimeRange
from marketd.plugins.feed import Feed
from marketd.streaming.needs import History
from marketd.streaming.polling import OVERLAP

log = logging.getLogger(__name__)

# How long after a close, and how often at the most; the jitter comes on top.
_GRACE_MS = 10_000
_JITTER_MS = 5_000
_MOST_BARS = 500


async def recheck(feed: Feed, history: History, *, next_ms: Callable[[], int]) -> None:
    """After each close, asks for the bars that have closed since the last time, and two before them.

    `next_ms` tells up to where bars have been published. It is background work: what the provider
    refuses is asked for with the bars of the next close.
    """
    timeframe, clock = feed.series.timeframe, feed.provider.plugin.clock
    lag_ms = feed.provider.plugin.settle_ms + _GRACE_MS
    checked_ms = next_ms()
    asked_ms = clock.now_ms()
    while True:
        close_ms = timeframe.end(clock.now_ms() - lag_ms) + lag_ms
        jitter_ms = random.randrange(_JITTER_MS)  # noqa: S311 - jitter
        await clock.sleep_until(max(close_ms, asked_ms + _GRACE_MS) + jitter_ms)
        asked_ms = clock.now_ms()
        end_ms = min(next_ms(), timeframe.floor(asked_ms - lag_ms))
        start_ms = max(checked_ms, timeframe.shift(end_ms, -_MOST_BARS))
        if start_ms >= end_ms:
            continue
        try:
            span = TimeRange(timeframe.shift(start_ms, -OVERLAP), end_ms)
            await history.refetch(feed, span, background=True)
        except MarketdError as error:
            log.info("bars not checked again series=%s reason=%s", feed.series, error.message)
        else:
            checked_ms = end_ms
