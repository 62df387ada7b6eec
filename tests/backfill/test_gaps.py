"""What is left to fetch: all of it, once, newest first, and never as a list."""

from __future__ import annotations

import itertools
import time

from hypothesis import given
from hypothesis import strategies as st

from marketd.backfill.gaps import chunks
from marketd.domain.timeframe import Timeframe
from marketd.domain.timerange import TimeRange, merge

YEAR_MS = 365 * 86_400_000
NOW = 1_709_647_200_000
TIMEFRAMES = st.sampled_from(["1s", "1m", "5m", "1h", "1d", "1w", "1M", "3M", "1y"]).map(Timeframe.parse)


@st.composite
def missing_ranges(draw: st.DrawFn) -> tuple[Timeframe, list[TimeRange]]:
    """Ranges of whole intervals, as reads leave them."""
    timeframe = draw(TIMEFRAMES)
    edges = draw(st.lists(st.integers(-300, 0), max_size=10, unique=True).map(sorted))
    start = timeframe.floor(NOW)
    times = [timeframe.shift(start, edge) for edge in edges]
    return timeframe, [TimeRange(*pair) for pair in zip(times[::2], times[1::2], strict=False)]


@given(missing_ranges(), st.integers(1, 50))
def test_chunks_are_what_is_missing_once_and_the_newest_first(
    missing: tuple[Timeframe, list[TimeRange]], most: int
) -> None:
    timeframe, ranges = missing
    cut = list(chunks(ranges, timeframe, most))
    assert merge(cut) == merge(ranges)
    assert all(later.start_ms >= earlier.end_ms for later, earlier in itertools.pairwise(cut))
    for piece in cut:
        assert timeframe.floor(piece.start_ms) == piece.start_ms
        assert piece.start_ms < piece.end_ms <= timeframe.shift(piece.start_ms, most)


@given(missing_ranges(), st.integers(1, 50))
def test_no_more_chunks_than_it_takes(missing: tuple[Timeframe, list[TimeRange]], most: int) -> None:
    timeframe, ranges = missing
    for whole in ranges:
        intervals = 0
        t_ms = whole.start_ms
        while t_ms < whole.end_ms:
            t_ms, intervals = timeframe.shift(t_ms, 1), intervals + 1
        assert len(list(chunks([whole], timeframe, most))) == -(-intervals // most)


def test_ten_years_of_seconds_begin_at_once() -> None:
    begun_s = time.perf_counter()
    pieces = chunks([TimeRange(NOW - 10 * YEAR_MS, NOW)], Timeframe.parse("1s"), 100)
    assert next(pieces) == TimeRange(NOW - 100_000, NOW)
    assert time.perf_counter() - begun_s < 0.01
