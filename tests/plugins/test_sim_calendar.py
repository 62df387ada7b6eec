"""When the simulated exchange is open."""

from datetime import UTC, date, datetime, time, timedelta
from itertools import pairwise
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketd.domain.timeframe import DAY_MS
from marketd.domain.timerange import TimeRange, subtract
from marketd.plugins.sim.calendar import Calendar, around_the_clock, holidays, new_york

NEW_YORK = ZoneInfo("America/New_York")


@pytest.fixture(scope="module")
def exchange() -> Calendar:
    return new_york()


def session(calendar: Calendar, day: date) -> tuple[datetime, datetime] | None:
    """The opening and closing on `day`, if there is one."""
    start_ms = datetime.combine(day, time(), UTC).timestamp() * 1000
    (found,) = np.nonzero(calendar.days == start_ms)
    if not len(found):
        return None
    opens, closes = (int(times[found[0]]) for times in (calendar.opens, calendar.closes))
    return datetime.fromtimestamp(opens / 1000, UTC), datetime.fromtimestamp(closes / 1000, UTC)


def test_new_york_opens_an_hour_earlier_by_utc_in_summer(exchange: Calendar) -> None:
    # The clocks went forward on Sunday 2024-03-10 and back on Sunday 2024-11-03.
    for day, hour in (
        (date(2024, 3, 8), 14),
        (date(2024, 3, 11), 13),
        (date(2024, 11, 1), 13),
        (date(2024, 11, 4), 14),
    ):
        found = session(exchange, day)
        assert found is not None
        assert found[0].timetz() == time(hour, 30, tzinfo=UTC)
        assert found[1] - found[0] == timedelta(hours=6, minutes=30)


def test_new_york_is_closed_on_weekends(exchange: Calendar) -> None:
    days = [datetime.fromtimestamp(t / 1000, UTC).weekday() for t in exchange.days.tolist()]
    assert set(days) == {0, 1, 2, 3, 4}


@pytest.mark.parametrize(
    ("year", "closed"),
    [
        # What the New York Stock Exchange published for these years.
        (2021, "01-01 01-18 02-15 04-02 05-31 07-05 09-06 11-25 12-24"),
        (2022, "01-17 02-21 04-15 05-30 06-20 07-04 09-05 11-24 12-26"),
        (2023, "01-02 01-16 02-20 04-07 05-29 06-19 07-04 09-04 11-23 12-25"),
        (2024, "01-01 01-15 02-19 03-29 05-27 06-19 07-04 09-02 11-28 12-25"),
        (2026, "01-01 01-19 02-16 04-03 05-25 06-19 07-03 09-07 11-26 12-25"),
    ],
)
def test_the_holidays_are_those_of_the_real_exchange(exchange: Calendar, year: int, closed: str) -> None:
    weekdays = [
        day
        for n in range(366)
        if (day := date(year, 1, 1) + timedelta(days=n)).year == year and day.weekday() < 5
    ]
    without = [f"{day:%m-%d}" for day in weekdays if session(exchange, day) is None]
    assert without == closed.split()


def test_good_friday_lies_two_days_before_easter() -> None:
    for easter in (date(2011, 4, 24), date(2038, 4, 25), date(2049, 4, 18), date(2076, 4, 19)):
        assert easter - timedelta(days=2) in list(holidays(easter.year))


@pytest.mark.parametrize("day", [date(2024, 11, 29), date(2024, 12, 24), date(2023, 11, 24)])
def test_new_york_closes_at_13_on_the_day_after_thanksgiving_and_on_christmas_eve(
    exchange: Calendar, day: date
) -> None:
    found = session(exchange, day)
    assert found is not None
    assert found[1].astimezone(NEW_YORK).time() == time(13)


def test_every_session_of_new_york_is_a_regular_one_by_the_clock_there(exchange: Calendar) -> None:
    for opens, closes in zip(exchange.opens.tolist(), exchange.closes.tolist(), strict=True):
        assert opens // DAY_MS == (closes - 1) // DAY_MS
        start = datetime.fromtimestamp(opens / 1000, NEW_YORK)
        end = datetime.fromtimestamp(closes / 1000, NEW_YORK)
        assert start.time() == time(9, 30)
        assert end.time() in (time(16), time(13))


def test_around_the_clock_every_session_begins_where_the_last_one_ends() -> None:
    calendar = around_the_clock()
    sessions = list(zip(calendar.opens.tolist(), calendar.closes.tolist(), strict=True))
    assert all(before[1] == after[0] for before, after in pairwise(sessions))
    assert {closes - opens for opens, closes in sessions} == {DAY_MS}


@pytest.mark.parametrize("calendar", [new_york(), around_the_clock()])
@given(since=st.integers(0, 30 * 24 * 60), length=st.integers(0, 10 * 24 * 60))
def test_the_market_is_closed_exactly_where_no_session_is(
    calendar: Calendar, since: int, length: int
) -> None:
    start_ms = 1_703_462_400_000 + since * 60_000  # from Christmas 2023 on
    end_ms = start_ms + length * 60_000
    first, stop = np.searchsorted(calendar.closes, start_ms), np.searchsorted(calendar.opens, end_ms)
    sessions = [TimeRange(int(calendar.opens[n]), int(calendar.closes[n])) for n in range(first, stop)]
    assert calendar.closed(start_ms, end_ms) == subtract(TimeRange(start_ms, end_ms), sessions)
