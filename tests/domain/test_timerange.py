from __future__ import annotations

import itertools

from hypothesis import given
from hypothesis import strategies as st

from marketd.domain.timerange import TimeRange, merge, subtract

RANGES = st.tuples(st.integers(0, 30), st.integers(0, 30)).map(lambda pair: TimeRange(*pair))


def points(ranges: list[TimeRange]) -> set[int]:
    return {t for piece in ranges for t in range(piece.start_ms, piece.end_ms)}


@given(st.lists(RANGES, max_size=8))
def test_merge_keeps_every_time_in_the_fewest_sorted_ranges(ranges: list[TimeRange]) -> None:
    merged = merge(ranges)
    assert points(merged) == points(ranges)
    assert all(one.end_ms < other.start_ms for one, other in itertools.pairwise(merged))
    assert not any(piece.is_empty for piece in merged)


@given(RANGES, st.lists(RANGES, max_size=8))
def test_subtract_leaves_what_is_in_no_part(whole: TimeRange, parts: list[TimeRange]) -> None:
    left = subtract(whole, merge(parts))
    assert points(left) == points([whole]) - points(parts)
    assert not any(piece.is_empty for piece in left)


@given(RANGES, RANGES)
def test_clip_is_what_both_hold(one: TimeRange, other: TimeRange) -> None:
    assert points([one.clip(other)]) == points([one]) & points([other])
