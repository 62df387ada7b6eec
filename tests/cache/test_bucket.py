"""A bucket gives back what was put into it, value by value, in memory and as bytes."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted import INSTRUMENT, MINUTE, START, M

from marketd.cache import Bucket, bucket_of
from marketd.cache.bucket import buckets_in
from marketd.domain.bar import Bar
from marketd.domain.instrument import Series
from marketd.domain.packing import cut, unpack
from marketd.domain.timeframe import Timeframe
from marketd.domain.timerange import TimeRange, merge

VALUES = st.none() | st.floats() | st.sampled_from([-0.0, math.nan, math.inf, -math.inf, 5e-324])
BARS = st.dictionaries(st.integers(0, 60), st.tuples(*[VALUES] * 5), max_size=20).map(
    lambda rows: [(START + minute * M, *rows[minute]) for minute in sorted(rows)]
)
RANGES = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), max_size=4).map(
    lambda pairs: merge(TimeRange(START + start * M, START + end * M) for start, end in pairs)
)


@given(BARS, RANGES, st.integers(0, 61), st.integers(0, 61))
def test_what_is_proven_comes_back_to_the_last_bit(
    bars: list[Bar], proven: list[TimeRange], start: int, end: int
) -> None:
    bucket = Bucket.of(bars, proven)
    span = TimeRange(START + start * M, START + max(start, end) * M)
    wanted = [
        bar
        for bar in bars
        if any(piece.start_ms <= bar[0] < piece.end_ms for piece in proven)
        and span.start_ms <= bar[0] < span.end_ms
    ]
    for one in (bucket, Bucket.from_bytes(bucket.to_bytes())):
        # repr, since NaN is equal to nothing and -0.0 to 0.0.
        assert repr(unpack(cut(one.packed, span))) == repr(wanted)
        assert list(one.proven) == proven
        assert one.size == bucket.size >= 48 * len(wanted)


@pytest.mark.parametrize("odd", [b"", b"x", bytes(6) + b"12345678", b"\xff" * 6])
def test_what_is_no_bucket_is_refused(odd: bytes) -> None:
    with pytest.raises(ValueError, match="no bucket"):
        Bucket.from_bytes(odd)


@given(
    st.sampled_from(["1s", "1m", "7m", "1h", "1d", "1w", "1M", "1y"]).map(Timeframe.parse),
    st.integers(0, 4_102_444_799_999),
    st.integers(1, 10**11),
)
def test_every_time_is_in_one_bucket(timeframe: Timeframe, t_ms: int, length_ms: int) -> None:
    series = Series(INSTRUMENT, timeframe)
    key = bucket_of(series, t_ms)
    assert key.span.start_ms <= t_ms < key.span.end_ms
    numbers = buckets_in(series, TimeRange(t_ms, t_ms + length_ms))
    assert (numbers[0], numbers[-1]) == (key.number, bucket_of(series, t_ms + length_ms - 1).number)


def test_minutes_lie_in_buckets_of_four_hours_and_days_in_longer_ones() -> None:
    hour = 60 * M
    assert bucket_of(Series(INSTRUMENT, MINUTE), START).span == TimeRange(START, START + 4 * hour)
    days = bucket_of(Series(INSTRUMENT, Timeframe.parse("1d")), START).span
    assert days.end_ms - days.start_ms == 240 * 24 * hour
