from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketd.domain.bar import Bar, Value, same_bar
from marketd.domain.resample import BarColumns, resample, resample_columns
from marketd.domain.timeframe import Timeframe

TARGETS = st.sampled_from(["1m", "5m", "1h", "1d", "1w", "1M", "1y"]).map(Timeframe.parse)
VALUES: st.SearchStrategy[Value] = st.one_of(
    st.floats(0, 1e6), st.none(), st.sampled_from([math.nan, math.inf])
)


@st.composite
def series(draw: st.DrawFn, values: st.SearchStrategy[Value] = VALUES) -> list[Bar]:
    minutes = draw(st.sets(st.integers(0, 400), max_size=40)) | draw(
        st.sets(st.integers(0, 30_000_000), max_size=10)
    )
    return [(m * 60_000, *(draw(values) for _ in range(5))) for m in sorted(minutes)]  # type: ignore[misc]


def by_hand(bars: list[Bar], target: Timeframe) -> list[Bar]:
    buckets: dict[int, list[Bar]] = {}
    for bar in bars:
        buckets.setdefault(target.floor(bar[0]), []).append(bar)
    whole = []
    for t, members in buckets.items():
        known = [[v for v in column if v is not None] for column in zip(*members, strict=True)]
        high, low, volume = (
            (math.nan if any(math.isnan(v) for v in values) else how(values)) if values else None
            for how, values in ((max, known[2]), (min, known[3]), (math.fsum, known[5]))
        )
        first, last = (known[1] or [None])[0], (known[4] or [None])[-1]
        whole.append((t, first, high, low, last, volume))
    return whole


@given(series(), TARGETS)
def test_a_bucket_is_first_highest_lowest_last_and_sum(bars: list[Bar], target: Timeframe) -> None:
    found, wanted = resample(bars, target), by_hand(bars, target)
    assert len(found) == len(wanted)
    for one, other in zip(found, wanted, strict=True):
        assert same_bar((*one[:5], None), (*other[:5], None))
        wanted_volume = other[5] if other[5] is None else pytest.approx(other[5], nan_ok=True, rel=1e-12)
        assert one[5] == wanted_volume


@given(series(), TARGETS)
def test_what_stands_around_a_bucket_does_not_change_a_bit_of_it(
    bars: list[Bar], target: Timeframe
) -> None:
    whole = {bar[0]: bar for bar in resample(bars, target)}
    for t, bar in whole.items():
        members = [one for one in bars if t <= one[0] < target.end(t)]
        (alone,) = resample(members, target)
        assert same_bar(alone, bar)


@given(series(st.floats(0, 1e6)), TARGETS)
def test_columns_and_rows_agree(bars: list[Bar], target: Timeframe) -> None:
    assert resample_columns(BarColumns.of(bars), target).rows() == resample(bars, target)


def test_the_sum_of_a_long_bucket_does_not_depend_on_where_it_lies() -> None:
    volumes = np.random.default_rng(7).random(100_000).tolist()
    bars: list[Bar] = [(i * 60_000, 1.0, 1.0, 1.0, 1.0, v) for i, v in enumerate(volumes)]
    day = Timeframe.parse("1d")
    whole = resample(bars, day)
    for index in range(0, len(whole) - 1, 7):
        assert resample(bars[index * 1440 : (index + 1) * 1440], day) == [whole[index]]


def test_no_bars_make_no_bars() -> None:
    assert resample([], Timeframe.parse("1h")) == []


@pytest.mark.parametrize(
    ("volumes", "total"),
    [((1e308, 1e308), math.inf), ((1e308, 1e308, None), math.inf), ((math.inf, -math.inf), math.nan)],
)
def test_a_sum_that_no_number_can_hold_is_made_without_a_warning(
    volumes: tuple[Value, ...], total: float
) -> None:
    bars: list[Bar] = [(i * 60_000, 1.0, 1.0, 1.0, 1.0, volume) for i, volume in enumerate(volumes)]
    (whole,) = resample(bars, Timeframe.parse("1h"))
    assert same_bar(whole, (0, 1.0, 1.0, 1.0, 1.0, total))
