"""Which coarser bars are kept once they have been computed, and the arithmetic of their buckets.

Each is made of the base bars and never of another coarser one: a sum of sums would differ in its last
bits from what resampling gives.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from marketd.domain.bar import Bar, select
from marketd.domain.resample import resample
from marketd.domain.timeframe import Timeframe
from marketd.domain.timerange import MAX_MS, MIN_MS, TimeRange

# What is kept, of bases so fine that computing it each time would be slow.
KEPT = tuple(map(Timeframe.parse, ("1h", "2h", "4h", "6h", "12h", "1d", "3d", "1w", "1M", "3M", "1y")))
# What is asked for most often is brought up to date without having been asked for.
_AHEAD = frozenset(map(Timeframe.parse, ("1h", "4h", "1d", "1w", "1M")))
_FEWEST_IN_BUCKET, _MOST_IN_BUCKET = 24, 600_000


def is_kept(base: Timeframe, timeframe: Timeframe) -> bool:
    """True if bars of `timeframe` that are made of `base` are kept."""
    return (
        timeframe in KEPT
        and base.tiles(timeframe)
        and _FEWEST_IN_BUCKET <= base.most_in(timeframe) <= _MOST_IN_BUCKET
    )


def to_refresh(base: Timeframe, used: Collection[Timeframe]) -> list[Timeframe]:
    """What to bring up to date of a series: what is often asked for, and what is `used` already."""
    return [
        timeframe
        for timeframe in KEPT
        if (timeframe in _AHEAD or timeframe in used) and is_kept(base, timeframe)
    ]


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
