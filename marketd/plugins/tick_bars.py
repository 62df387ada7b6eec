"""Bars that a provider does not have, made of the past trades that it has."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from marketd.domain.bar import Tick
from marketd.domain.tick_bars import bars_of_ticks
from marketd.domain.timeframe import Timeframe
from marketd.domain.timerange import TimeRange, merge
from marketd.plugins.pages import Fetched
from marketd.plugins.ticks import FetchedTicks

# What bars are made of trades where the provider has none that would do; others are derived.
MADE_OF_TICKS = (Timeframe.parse("1m"), Timeframe.parse("1s"))


async def fetch_bars(
    fetch: Callable[[TimeRange], Awaitable[FetchedTicks]], timeframe: Timeframe, span: TimeRange
) -> Fetched:
    """The first bars of `span`, closed and forming: as many as the pages of trades of one interval hold.

    `fetch` gives a page of trades. An interval of which trades were refused or are gone proves nothing.
    """
    # A bar that opens in the span may hold trades after it.
    whole = TimeRange(timeframe.ceil(span.start_ms), timeframe.ceil(span.end_ms))
    ticks: list[Tick] = []
    refused: list[TimeRange] = []
    cursor = whole.start_ms
    while cursor < whole.end_ms:
        page = await fetch(TimeRange(cursor, whole.end_ms))
        # What a page's end cuts through is told again by the next.
        ticks += [tick for tick in page.ticks if tick[0] < page.end_ms]
        refused += page.refused
        cursor = page.end_ms
        if timeframe.floor(cursor) > whole.start_ms:
            break
    end_ms = timeframe.floor(cursor)
    spoilt = merge(
        TimeRange(timeframe.floor(piece.start_ms), timeframe.ceil(piece.end_ms)) for piece in refused
    )
    bars = await asyncio.to_thread(bars_of_ticks, ticks, timeframe)
    good = [
        bar
        for bar in bars
        if bar[0] < end_ms and not any(one.start_ms <= bar[0] < one.end_ms for one in spoilt)
    ]
    told = TimeRange(span.start_ms, span.end_ms if end_ms >= whole.end_ms else end_ms)
    clipped = [piece.clip(told) for piece in spoilt]
    return Fetched(good, told.end_ms, [piece for piece in clipped if not piece.is_empty])
