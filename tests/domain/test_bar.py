from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketd.domain.bar import Bar, all_valid, bar_fault, same_bar, select
from marketd.domain.timeframe import Timeframe

MINUTE = Timeframe.parse("1m")
GOOD: Bar = (60_000, 2.0, 3.0, 1.0, 2.5, 10.0)
VALUES = st.one_of(
    st.none(), st.sampled_from([math.nan, math.inf, -math.inf, 0, True, "1"]), st.floats(-5, 5)
)
ROWS = st.one_of(
    st.tuples(
        st.sampled_from([0, 60_000, 120_000, 90_000, -60_000, 10**15, 10**30, 1.5, None]), *[VALUES] * 5
    ),
    st.sampled_from([(), (0,), None, [60_000, 1.0, 1.0, 1.0, 1.0, 1.0], "bar"]),
)


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        (GOOD, None),
        ((60_000, None, None, None, None, None), None),
        ((60_000, math.nan, math.nan, math.nan, math.nan, math.nan), None),
        ((60_000, 1.0, math.inf, -math.inf, 1.0, 0.0), None),
        ((60_000, 1, 2, 1, 2, 0), None),
        ((60_000, 4.0, 3.0, 1.0, 2.5, 10.0), "range"),
        ((60_000, 2.0, 3.0, 1.0, 0.5, 10.0), "range"),
        ((60_000, None, 1.0, 2.0, None, None), "range"),
        ((60_000, 2.0, 3.0, 1.0, 2.5, -1.0), "volume"),
        ((61_000, 2.0, 3.0, 1.0, 2.5, 1.0), "off_grid"),
        ((-60_000, 2.0, 3.0, 1.0, 2.5, 1.0), "time"),
        ((4_102_444_800_000, 2.0, 3.0, 1.0, 2.5, 1.0), "time"),
        ((60_000.0, 2.0, 3.0, 1.0, 2.5, 1.0), "shape"),
        ((60_000, "2", 3.0, 1.0, 2.5, 1.0), "shape"),
        ((60_000, 2.0, 3.0, 1.0, 2.5), "shape"),
        ([60_000, 2.0, 3.0, 1.0, 2.5, 1.0], "shape"),
        (None, "shape"),
    ],
)
def test_a_bar_that_cannot_be_right_is_told_why(row: Any, fault: str | None) -> None:
    assert bar_fault(row, MINUTE) == fault


@given(st.lists(ROWS, max_size=4))
def test_all_valid_finds_what_bar_fault_finds(rows: list[Any]) -> None:
    faultless = all(bar_fault(row, MINUTE) is None for row in rows)
    ascends = faultless and all(one[0] < other[0] for one, other in itertools.pairwise(rows))
    assert all_valid(rows, MINUTE) is ascends


def test_nan_is_the_same_as_nan_and_not_as_none() -> None:
    assert same_bar((0, math.nan, 1.0, 1.0, 1.0, None), (0, math.nan, 1.0, 1.0, 1.0, None))
    assert not same_bar((0, math.nan, 1.0, 1.0, 1.0, None), (0, None, 1.0, 1.0, 1.0, None))
    assert not same_bar((0, 1.0, 1.0, 1.0, 1.0, None), (0, 1.0, 1.0, 1.0, 1.0, 0.0))


@given(
    st.sets(st.integers(0, 40)),
    st.none() | st.integers(-5, 45),
    st.none() | st.integers(-5, 45),
    st.none() | st.integers(1, 10),
)
def test_select_is_first_from_since_or_last_before(
    times: set[int], since: int | None, before: int | None, limit: int | None
) -> None:
    bars: list[Bar] = [(t, 1.0, 1.0, 1.0, 1.0, 1.0) for t in sorted(times)]
    inside = [
        bar for bar in bars if (since is None or bar[0] >= since) and (before is None or bar[0] < before)
    ]
    count = len(inside) if limit is None else limit
    wanted = inside[:count] if since is not None else inside[max(0, len(inside) - count) :]
    assert list(select(bars, since=since, before=before, limit=limit)) == wanted
