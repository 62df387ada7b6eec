"""When the simulated exchange is open: around the clock, or in the regular session of New York."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, tzinfo
from zoneinfo import ZoneInfo

import numpy as np

from marketd.domain.timeframe import DAY_MS, IntArray
from marketd.domain.timerange import TimeRange

_FIRST_YEAR = 2010
_END_YEAR = 2100

_MINUTE_MS = 60_000
_OPEN_MIN = 9 * 60 + 30
_CLOSE_MIN = 16 * 60
_EARLY_CLOSE_MIN = 13 * 60


@dataclass(frozen=True, slots=True, eq=False)
class Calendar:
    """Sessions, ascending, each within one UTC day: session n is `[opens[n], closes[n])`, epoch ms.

    `profile` is the usual relative volume of each minute of a full session, from its opening on.
    """

    opens: IntArray
    closes: IntArray
    profile: IntArray

    @property
    def days(self) -> IntArray:
        """The UTC day of every session, as its start in epoch milliseconds."""
        return self.opens - self.opens % DAY_MS

    def closed(self, since_ms: int, before_ms: int) -> list[TimeRange]:
        """What of `[since_ms, before_ms)` lies between two sessions."""
        first = max(int(np.searchsorted(self.opens, since_ms, side="right")) - 1, 0)
        stop = int(np.searchsorted(self.opens, before_ms, side="left"))
        ends = np.minimum(self.opens[first + 1 : stop + 1], before_ms)
        starts = np.maximum(self.closes[first : first + len(ends)], since_ms)
        pauses = starts < ends
        return [*map(TimeRange, starts[pauses].tolist(), ends[pauses].tolist())]

    def minutes(self, sessions: IntArray) -> IntArray:
        """How many minutes each of `sessions` lasts."""
        return (self.closes[sessions] - self.opens[sessions]) // _MINUTE_MS


def around_the_clock() -> Calendar:
    """A session every UTC day, without a pause."""
    opens = np.array([_midnight_ms(day, UTC) for day in _days()])
    # Busiest at 15:00 UTC, when Europe and America are both awake, and calmest twelve hours from it.
    minutes = np.arange(24 * 60)
    return Calendar(opens, opens + DAY_MS, 48 - np.abs((minutes - 3 * 60) % 1440 - 720) // 20)


def new_york() -> Calendar:
    """The regular sessions of New York, 09:30 to 16:00 by the clock there, or to 13:00 early."""
    zone = ZoneInfo("America/New_York")
    years = range(_FIRST_YEAR, _END_YEAR)
    shut = {day for year in years for day in holidays(year)}
    early = {day for year in years for day in early_closes(year)}
    days = [day for day in _days() if day.weekday() < 5 and day not in shut]
    # Clocks are put forward and back on Sundays: from its midnight on, a session's day is regular.
    midnights = np.array([_midnight_ms(day, zone) for day in days])
    close_min = np.array([_EARLY_CLOSE_MIN if day in early else _CLOSE_MIN for day in days])
    # Busy after the opening, calm at noon, busy again before the close.
    minutes = np.arange(_CLOSE_MIN - _OPEN_MIN)
    return Calendar(
        midnights + _OPEN_MIN * _MINUTE_MS,
        midnights + close_min * _MINUTE_MS,
        12 + 48 * (minutes - 210) ** 2 // 210**2,
    )


def holidays(year: int) -> Iterator[date]:
    """The days on which New York is closed, by the rules of today (some fall on weekends)."""
    new_year = date(year, 1, 1)
    # A New Year's Day on a Saturday is not made up for: the Friday belongs to the old year.
    yield new_year + timedelta(days=new_year.weekday() == 6)
    yield _nth_weekday(year, 1, 0, 3)  # Martin Luther King's birthday
    yield _nth_weekday(year, 2, 0, 3)  # Washington's birthday
    yield _easter(year) - timedelta(days=2)  # Good Friday
    yield _nth_weekday(year, 6, 0, 1) - timedelta(days=7)  # Memorial Day, the last Monday of May
    if year >= 2022:
        yield _observed(date(year, 6, 19))  # Juneteenth
    yield _observed(date(year, 7, 4))
    yield _nth_weekday(year, 9, 0, 1)  # Labor Day
    yield _nth_weekday(year, 11, 3, 4)  # Thanksgiving
    yield _observed(date(year, 12, 25))


def early_closes(year: int) -> Iterator[date]:
    """The days on which New York closes at 13:00, if it opens at all."""
    yield _nth_weekday(year, 11, 3, 4) + timedelta(days=1)
    yield date(year, 12, 24)


def _days() -> Iterator[date]:
    start = date(_FIRST_YEAR, 1, 1)
    return (start + timedelta(days=n) for n in range((date(_END_YEAR, 1, 1) - start).days))


def _midnight_ms(day: date, zone: tzinfo) -> int:
    """When `day` begins in `zone`, epoch milliseconds."""
    return round(datetime(day.year, day.month, day.day, tzinfo=zone).timestamp()) * 1000


def _nth_weekday(year: int, month: int, weekday: int, nth: int) -> date:
    """E.g. the 4th Thursday (weekday 3) of November."""
    first = date(year, month, 1)
    return first + timedelta(days=(weekday - first.weekday()) % 7 + 7 * (nth - 1))


def _observed(day: date) -> date:
    """The day off for a holiday: the Friday before a Saturday, the Monday after a Sunday."""
    return day + timedelta(days={5: -1, 6: 1}.get(day.weekday(), 0))


def _easter(year: int) -> date:
    """Easter Sunday of the Gregorian calendar (the anonymous algorithm of 1876, as in Meeus)."""
    golden = year % 19
    century, in_century = divmod(year, 100)
    skipped_leaps, century_mod = divmod(century, 4)
    lunar_shift = (century - (century + 8) // 25 + 1) // 3
    epact = (19 * golden + century - skipped_leaps - lunar_shift + 15) % 30
    leaps, leap_mod = divmod(in_century, 4)
    to_sunday = (32 + 2 * century_mod + 2 * leaps - epact - leap_mod) % 7
    correction = (golden + 11 * epact + 22 * to_sunday) // 451
    month, day = divmod(epact + to_sunday - 7 * correction + 114, 31)
    return date(year, month, day + 1)
