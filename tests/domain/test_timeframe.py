from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketd.domain.errors import InvalidInput
from marketd.domain.timeframe import Timeframe

TIMES = st.integers(0, 4_102_444_799_999)
NAMES = "1s 7s 1m 5m 15m 30m 1h 4h 7h 1d 3d 1w 2w 1M 2M 3M 5M 1y 3y 10y"
TIMEFRAMES = st.sampled_from(NAMES.split()).map(Timeframe.parse)


def ms(text: str) -> int:
    return round(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)


def tf(text: str) -> Timeframe:
    return Timeframe.parse(text)


@given(TIMEFRAMES, TIMES)
def test_a_bucket_holds_the_time_that_it_is_floored_from(timeframe: Timeframe, t: int) -> None:
    start, end = timeframe.floor(t), timeframe.end(t)
    assert start <= t < end
    assert timeframe.floor(start) == start
    assert timeframe.floor(end - 1) == start
    assert timeframe.floor(end) == end


@given(TIMEFRAMES, TIMES)
def test_ceil_is_the_first_start_not_before_the_time(timeframe: Timeframe, t: int) -> None:
    ceiling = timeframe.ceil(t)
    assert ceiling >= t
    assert timeframe.floor(ceiling) == ceiling
    assert timeframe.shift(ceiling, -1) < t


@given(TIMEFRAMES, st.lists(TIMES, min_size=1, max_size=20))
def test_floor_array_is_floor_of_each(timeframe: Timeframe, times: list[int]) -> None:
    array = np.array(times, dtype=np.int64)
    assert timeframe.floor_array(array).tolist() == [timeframe.floor(t) for t in times]


@given(TIMEFRAMES, TIMEFRAMES, TIMES)
def test_a_base_that_tiles_has_a_boundary_at_every_boundary_of_the_target(
    base: Timeframe, target: Timeframe, t: int
) -> None:
    if base.tiles(target):
        start = target.floor(t)
        assert base.floor(start) == start


@pytest.mark.parametrize(
    ("base", "target", "tiles"),
    [
        ("1m", "5m", True),
        ("1m", "1M", True),
        ("1d", "1w", True),
        ("1w", "1M", False),
        ("1w", "1y", False),
        ("1M", "1y", True),
        ("5M", "1y", False),
        ("2d", "1w", False),
        ("7d", "1w", False),
        ("7m", "1d", False),
        ("3h", "1M", True),
        ("1h", "1m", False),
        ("1y", "1M", False),
    ],
)
def test_what_tiles_what(base: str, target: str, tiles: bool) -> None:
    assert tf(base).tiles(tf(target)) is tiles


@pytest.mark.parametrize(
    ("timeframe", "at", "start", "end"),
    [
        ("1w", "2024-03-03T23:59:59", "2024-02-26T00:00", "2024-03-04T00:00"),
        ("1M", "2024-02-29T12:00", "2024-02-01T00:00", "2024-03-01T00:00"),
        ("1M", "1970-01-01T00:00", "1970-01-01T00:00", "1970-02-01T00:00"),
        ("3M", "2023-12-31T23:59", "2023-10-01T00:00", "2024-01-01T00:00"),
        ("1y", "2024-12-31T23:59", "2024-01-01T00:00", "2025-01-01T00:00"),
        ("10y", "2024-12-31T23:59", "2020-01-01T00:00", "2030-01-01T00:00"),
        ("4h", "2024-03-10T07:00", "2024-03-10T04:00", "2024-03-10T08:00"),
    ],
)
def test_calendar_buckets(timeframe: str, at: str, start: str, end: str) -> None:
    assert tf(timeframe).floor(ms(at)) == ms(start)
    assert tf(timeframe).end(ms(at)) == ms(end)


def test_weeks_begin_on_monday_for_a_century() -> None:
    monday = datetime(1970, 1, 5, tzinfo=UTC)
    for week in range(0, 5_200, 13):
        t = round((monday + timedelta(weeks=week)).timestamp() * 1000)
        assert tf("1w").floor(t) == t
        assert tf("1w").floor(t - 1) == t - 7 * 86_400_000


def test_a_month_is_not_a_minute() -> None:
    assert tf("1M") != tf("1m")
    assert str(tf("1M")) == "1M"
    assert tf("1M").nominal_ms > 27 * tf("1d").nominal_ms


@pytest.mark.parametrize(
    "text", ["", "m", "0m", "-1m", "1", "1x", "01m", "1 m", "1m ", "1.5h", "1H", "１m", "999999y", "11y"]
)
def test_what_is_no_timeframe_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        tf(text)
    assert refused.value.field == "timeframe"
