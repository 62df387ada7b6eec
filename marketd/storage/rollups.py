"""Which coarser bars are worth keeping ready, and the arithmetic of their buckets.

Hours and days, of any series that tiles them: they are asked for most, and the days of a year of
minutes are half a million bars to read. Each is made of the base bars and never of another, so that
it has the bits that resampling gives.
"""

from __future__ import annotations

from collections.abc import Sequence

from marketd.domain.bar import Bar, select
from marketd.domain.resample import resample
from marketd.domain.timeframe import DAY_MS, Timeframe
from marketd.domain.timerange import MAX_MS, MIN_MS, TimeRange

LEVELS = (Timeframe.parse("1h"), Timeframe.parse("1d"))
# Base bars read and resampled at once.
CHUNK = 50_000
# A run of fewer buckets is sooner computed each time than kept: the hours of today, say.
WORTH_KEEPING = 24


def levels_of(base: Timeframe) -> list[Timeframe]:
    """The timeframes that are kept ready of a series."""
    return [level for level in LEVELS if level != base and base.tiles(level)]


def whole_buckets(timeframe: Timeframe, span: TimeRange) -> TimeRange:
    """The buckets that lie whole in `span`."""
    if span.is_empty:
        return span
    return TimeRange(timeframe.ceil(span.start_ms), timeframe.floor(span.end_ms))


def touched_buckets(timeframe: Timeframe, span: TimeRange) -> TimeRange:
    """The buckets that a part of `span`, which is not empty, lies in."""
    return TimeRange(timeframe.floor(span.start_ms), timeframe.ceil(span.end_ms)).clip(
        TimeRange(MIN_MS, MAX_MS)
    )


def most_bars(timeframe: Timeframe, base: Timeframe) -> int:
    """The most bars of `base` that a bucket can hold."""
    # Months and years differ in length: the longest are less than four days over the mean.
    longest_ms = timeframe.nominal_ms + (4 * DAY_MS if timeframe.is_calendar else 0)
    return -(-longest_ms // base.nominal_ms)


def resampled(
    bars: Sequence[Bar], timeframe: Timeframe, span: TimeRange, *, cut: bool, newest: bool
) -> tuple[list[Bar], TimeRange]:
    """The buckets that `bars`, read from one end of `span`, hold whole; and what of `span` is left.

    `cut` says that a limit ended the reading, so that the last bucket reached may go on.
    """
    if not cut:
        return resample(bars, timeframe), TimeRange(span.end_ms, span.end_ms)
    if newest:
        edge_ms = timeframe.ceil(bars[0][0])
        return resample(select(bars, since=edge_ms), timeframe), TimeRange(span.start_ms, edge_ms)
    edge_ms = timeframe.floor(bars[-1][0])
    return resample(select(bars, since=span.start_ms, before=edge_ms), timeframe), TimeRange(
        edge_ms, span.end_ms
    )
