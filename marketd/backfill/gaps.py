"""What a backfill has still to fetch, cut into pieces of a provider's size."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from marketd.domain.timeframe import Timeframe
from marketd.domain.timerange import TimeRange


def chunks(missing: Sequence[TimeRange], timeframe: Timeframe, most: int) -> Iterator[TimeRange]:
    """`missing` in pieces of at most `most` intervals, the newest first, one at a time.

    A piece begins where an interval does, unless the range that it is cut from does not.
    """
    for whole in reversed(missing):
        end_ms = whole.end_ms
        while end_ms > whole.start_ms:
            first_ms = timeframe.shift(timeframe.floor(end_ms - 1), 1 - most)
            start_ms = max(whole.start_ms, first_ms)
            yield TimeRange(start_ms, end_ms)
            end_ms = start_ms
