"""Laying a recording along time, and forming its bars: pure functions."""

from datetime import UTC, datetime
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketd.barfiles.recording import Recording
from marketd.domain.bar import Bar, Value, select
from marketd.domain.timeframe import DAY_MS, Timeframe
from marketd.domain.timerange import MAX_MS, TimeRange
from marketd.plugins.replay.forming import formation, formed_at
from marketd.plugins.replay.timeline import Layout, Timeline, extent, in_laps, once

MINUTE_MS = 60_000
HOUR_MS = 60 * MINUTE_MS
MINUTE, HOUR, DAY = (Timeframe.parse(text) for text in ("1m", "1h", "1d"))
MONDAY = 1_294_012_800_000  # 2011-01-03
YEARS_BACK_MS = 20 * 366 * DAY_MS
NAN = float("nan")


def recording(*times: int) -> Recording:
    return Recording.of([(t, 1.0, 2.0, 0.5, 1.5, float(row)) for row, t in enumerate(times)])


def timeframes(*texts: str) -> list[Timeframe]:
    return [Timeframe.parse(text) for text in texts]


def test_the_extent_of_a_symbol_reaches_over_all_its_timeframes() -> None:
    recordings = {
        MINUTE: recording(MONDAY + HOUR_MS, MONDAY + 2 * HOUR_MS),
        HOUR: recording(MONDAY + HOUR_MS, MONDAY + 2 * HOUR_MS),
    }
    assert extent(recordings) == (MONDAY + HOUR_MS, MONDAY + 3 * HOUR_MS)


@pytest.mark.parametrize(
    ("length_ms", "of", "lap_ms"),
    [
        (7 * DAY_MS, ["1m"], 7 * DAY_MS),
        (7 * DAY_MS + MINUTE_MS, ["1m"], 14 * DAY_MS),
        (365 * DAY_MS, ["1m", "1d"], 371 * DAY_MS),
        (DAY_MS, ["1m"], DAY_MS),
        (3 * DAY_MS - MINUTE_MS, ["1m"], 3 * DAY_MS),
        (721 * MINUTE_MS, ["1m"], 721 * MINUTE_MS),
        (721 * MINUTE_MS, ["1m", "1h"], 13 * HOUR_MS),
        (10 * MINUTE_MS, ["2m", "3m"], 12 * MINUTE_MS),
        (DAY_MS, ["7m"], 7 * DAY_MS),
        (28 * DAY_MS, ["2w", "1d"], 28 * DAY_MS),
        (5 * DAY_MS, ["5d"], 5 * DAY_MS),
    ],
)
def test_a_lap_is_whole_weeks_else_whole_days_else_whole_bars(
    length_ms: int, of: list[str], lap_ms: int
) -> None:
    assert in_laps(TimeRange(MONDAY, MONDAY + length_ms), timeframes(*of)).lap_ms == lap_ms


def test_laps_reach_twenty_years_back_and_not_before_1970() -> None:
    layout = in_laps(TimeRange(MONDAY, MONDAY + DAY_MS), [MINUTE])
    assert layout.span == (MONDAY - YEARS_BACK_MS, MAX_MS)
    early = in_laps(TimeRange(10 * DAY_MS + 1000, 17 * DAY_MS + 1000), timeframes("1s"))
    assert early.span.start_ms == 3 * DAY_MS + 1000


def test_months_and_years_cannot_be_repeated() -> None:
    with pytest.raises(ValueError, match="months and years"):
        in_laps(TimeRange(0, 365 * DAY_MS), timeframes("1d", "1M"))


def test_in_laps_a_weekday_and_a_time_of_day_stay_what_they_were() -> None:
    opens = MONDAY + 9 * HOUR_MS
    week = recording(*(opens + day * DAY_MS for day in range(5)), opens + 8 * DAY_MS)
    timeline = Timeline(week, in_laps(extent({HOUR: week}), [HOUR]))
    laid = timeline.bars(
        timeline.position(MONDAY + 1000 * DAY_MS), timeline.position(MONDAY + 1100 * DAY_MS)
    )
    dates = [datetime.fromtimestamp(bar[0] / 1000, UTC) for bar in laid]
    assert {date.hour for date in dates} == {9}
    assert {date.weekday() for date in dates} == {0, 1, 2, 3, 4}


def test_between_two_laps_lies_an_honest_hole() -> None:
    morning = recording(*(MONDAY + minute * MINUTE_MS for minute in range(90)))
    layout = in_laps(extent({MINUTE: morning, HOUR: recording(MONDAY)}), [MINUTE, HOUR])
    assert layout.lap_ms == 2 * HOUR_MS
    timeline = Timeline(morning, layout)
    seam = [bar[0] - MONDAY for bar in timeline.bars(88, 92)]
    assert seam == [88 * MINUTE_MS, 89 * MINUTE_MS, 120 * MINUTE_MS, 121 * MINUTE_MS]


def test_positions_clamp_to_what_the_layout_holds() -> None:
    two = recording(MONDAY, MONDAY + MINUTE_MS)
    timeline = Timeline(two, once(extent({MINUTE: two})))
    assert [timeline.position(t) for t in (0, MONDAY, MONDAY + 1, MONDAY + MINUTE_MS + 1, MAX_MS)] == [
        0, 0, 1, 2, 2,
    ]  # fmt: skip
    assert timeline.stop == 2
    assert timeline.bars(2, 2) == timeline.bars(2, 0) == []


minutes = st.lists(st.integers(0, 500), min_size=1, max_size=40, unique=True).map(sorted)


@given(minutes, st.integers(-3000, 3000), st.integers(0, 4000), st.booleans())
def test_a_range_holds_exactly_the_bars_of_all_laps_in_it(
    offsets: list[int], since: int, length: int, repeat: bool
) -> None:
    recorded = recording(*(MONDAY + offset * MINUTE_MS for offset in offsets))
    whole = extent({MINUTE: recorded})
    layout: Layout = in_laps(whole, [MINUTE]) if repeat else once(whole)
    timeline = Timeline(recorded, layout)
    laps = range(-6000, 6000) if repeat else range(1)
    start, stop = (MONDAY + minute * MINUTE_MS for minute in (since, since + length))
    expected = sorted(
        t
        for lap in laps
        if -5000 * MINUTE_MS < lap * layout.lap_ms < 10_000 * MINUTE_MS
        for offset in offsets
        if start <= (t := MONDAY + offset * MINUTE_MS + lap * layout.lap_ms) < stop
    )
    got = timeline.bars(timeline.position(start), timeline.position(stop))
    assert [bar[0] for bar in got] == expected
    # Whatever the lap, a bar's values are those of its recorded row.
    rows = {MONDAY + offset * MINUTE_MS: float(row) for row, offset in enumerate(offsets)}
    assert all(
        rows[(bar[0] - layout.origin_ms) % layout.lap_ms + layout.origin_ms] == bar[5] for bar in got
    )


prices = st.floats(0, 1e6) | st.none() | st.sampled_from([NAN, float("inf")])
volumes = st.none() | st.just(NAN) | st.floats(0)


@given(st.tuples(st.just(MONDAY), prices, prices, prices, prices, volumes), st.integers(1, DAY_MS))
def test_a_bar_forms_through_its_own_prices_up_to_its_own_volume(bar: Bar, length_ms: int) -> None:
    states = formation(bar, MONDAY + length_ms)
    recorded = [price for price in bar[1:5] if price is not None and price == price]
    assert len(states) == len(recorded)
    for state in states:
        assert MONDAY <= state.t_ms < MONDAY + length_ms
        assert state.bar[0] == MONDAY
        assert set(state.bar[1:5]) <= set(recorded)
    if states:
        assert states[0].t_ms == MONDAY
        assert [state.t_ms for state in states] == sorted(state.t_ms for state in states)
        assert same(states[-1].bar[5], bar[5])
        known = [volume for *_, volume in (state.bar for state in states) if volume is not None]
        assert all(not earlier > later for earlier, later in pairwise(known))


def same(one: Value, other: Value) -> bool:
    return one == other or (one != one and other != other)


@given(
    st.tuples(*[st.floats(0, 1e6)] * 4).map(sorted),
    st.booleans(),
    st.floats(0, 1e300),
    st.integers(1, DAY_MS),
)
def test_the_last_state_of_a_whole_bar_is_the_bar(
    sorted_prices: list[float], rises: bool, volume: float, length_ms: int
) -> None:
    low, one, other, high = sorted_prices
    open_, close = (one, other) if rises else (other, one)
    bar = (MONDAY, open_, high, low, close, volume)
    assert formation(bar, MONDAY + length_ms)[-1].bar == bar


def test_the_path_is_open_then_the_nearer_extreme_then_the_other_then_close() -> None:
    near_low = [
        state.bar[4] for state in formation((MONDAY, 2.0, 9.0, 1.0, 5.0, 4.0), MONDAY + MINUTE_MS)
    ]
    near_high = [
        state.bar[4] for state in formation((MONDAY, 8.0, 9.0, 1.0, 5.0, 4.0), MONDAY + MINUTE_MS)
    ]
    assert (near_low, near_high) == ([2.0, 1.0, 9.0, 5.0], [8.0, 9.0, 1.0, 5.0])


def test_what_is_seen_of_a_bar_grows_with_the_time() -> None:
    bar = (MONDAY, 2.0, 9.0, 1.0, 5.0, 4.0)
    end_ms = MONDAY + MINUTE_MS
    seen = [formed_at(bar, end_ms, MONDAY + s * 1000) for s in (-1, 0, 14, 15, 30, 45, 60)]
    assert seen == [
        None,
        (MONDAY, 2.0, 2.0, 2.0, 2.0, 1.0),
        (MONDAY, 2.0, 2.0, 2.0, 2.0, 1.0),
        (MONDAY, 2.0, 2.0, 1.0, 1.0, 2.0),
        (MONDAY, 2.0, 9.0, 1.0, 9.0, 3.0),
        bar,
        bar,
    ]


def test_a_bar_without_a_price_is_not_seen_before_it_closes() -> None:
    bar = (MONDAY, None, NAN, None, None, 3.0)
    assert formed_at(bar, MONDAY + MINUTE_MS, MONDAY + 1) is None
    assert formed_at(bar, MONDAY + MINUTE_MS, MONDAY + MINUTE_MS) == bar


@given(minutes, st.integers(0, 3000), st.integers(1, 30))
def test_the_first_bars_of_a_range_are_those_of_the_one_range_filter(
    offsets: list[int], since: int, limit: int
) -> None:
    recorded = recording(*(MONDAY + offset * MINUTE_MS for offset in offsets))
    timeline = Timeline(recorded, once(extent({MINUTE: recorded})))
    start = timeline.position(MONDAY + since * MINUTE_MS)
    everything = timeline.bars(0, timeline.stop)
    got = timeline.bars(start, min(timeline.stop, start + limit))
    assert got == select(everything, since=MONDAY + since * MINUTE_MS, limit=limit)
