"""Timeframes and their buckets.

A bucket of `1m 5m 1h 1d …` is a whole multiple of its length counted from the epoch; weeks begin on
Monday; months and years are those of the UTC calendar, multiples counted from year 0 (so `3M` is a
quarter and `10y` a decade). `1M` is a month and never `1m`.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property, lru_cache

import numpy as np
import numpy.typing as npt

from marketd.domain.errors import InvalidInput

IntArray = npt.NDArray[np.int64]

DAY_MS = 86_400_000
_FIXED_MS = {"s": 1_000, "m": 60_000, "h": 3_600_000, "d": DAY_MS, "w": 7 * DAY_MS}
_MONTHS = {"M": 1, "y": 12}
_MONTH_MS = round(365.2425 * DAY_MS / 12)  # the mean Gregorian month
_LONGEST_MS = 10 * 366 * DAY_MS
_FIRST_MONDAY_MS = 4 * DAY_MS  # 1970-01-05
_FIRST_MONTH, _LAST_MONTH = 1 * 12, 9999 * 12 + 11
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_PATTERN = re.compile(r"([1-9][0-9]{0,5})([smhdwMy])")


@dataclass(frozen=True)
class Timeframe:
    """A count of one unit, e.g. `Timeframe.parse("15m")`. All times are epoch milliseconds UTC."""

    count: int
    unit: str

    @staticmethod
    def parse(text: str) -> Timeframe:
        """The timeframe that `text` names; InvalidInput for anything else, or more than ten years."""
        return _parse(text)

    def __str__(self) -> str:
        return f"{self.count}{self.unit}"

    @cached_property
    def is_calendar(self) -> bool:
        """True of months and years, whose buckets differ in length."""
        return self.unit in _MONTHS

    @cached_property
    def nominal_ms(self) -> int:
        """The length of a bucket; of months and years, the mean length."""
        if self.is_calendar:
            return self._months * _MONTH_MS
        return self.count * _FIXED_MS[self.unit]

    @cached_property
    def _months(self) -> int:
        return self.count * _MONTHS[self.unit]

    @cached_property
    def _origin_ms(self) -> int:
        return _FIRST_MONDAY_MS if self.unit == "w" else 0

    def floor(self, t_ms: int) -> int:
        """The start of the bucket that holds `t_ms`."""
        if self.is_calendar:
            month = _month_of(t_ms)
            return _month_start(month - month % self._months)
        return t_ms - (t_ms - self._origin_ms) % self.nominal_ms

    def ceil(self, t_ms: int) -> int:
        """The first bucket start at or after `t_ms`."""
        start = self.floor(t_ms)
        return start if start == t_ms else self.shift(start, 1)

    def end(self, t_ms: int) -> int:
        """The end of the bucket that holds `t_ms`, which is the start of the next."""
        return self.shift(self.floor(t_ms), 1)

    def shift(self, start_ms: int, buckets: int) -> int:
        """The bucket start that lies `buckets` after (or, negative, before) the start `start_ms`.

        Of months and years, one in the years 1 to 9999, which is as far as the calendar goes.
        """
        if self.is_calendar:
            return _month_start(_month_of(start_ms) + buckets * self._months)
        return start_ms + buckets * self.nominal_ms

    def floor_array(self, t_ms: IntArray) -> IntArray:
        """`floor` of every element."""
        if self.is_calendar:
            months = t_ms.astype("datetime64[ms]").astype("datetime64[M]").astype(np.int64)
            # numpy counts months from 1970 and ours count from year 0: 1970 * 12 apart.
            months -= (months + 1970 * 12) % self._months
            starts = months.astype("datetime64[M]").astype("datetime64[ms]")
            return starts.astype(np.int64)
        return t_ms - (t_ms - self._origin_ms) % self.nominal_ms

    def tiles(self, target: Timeframe) -> bool:
        """True if every bucket of `target` is made of whole buckets of this timeframe."""
        if self.is_calendar:
            return target.is_calendar and target._months % self._months == 0
        if target.is_calendar:
            return self._origin_ms == 0 and DAY_MS % self.nominal_ms == 0
        return (
            target.nominal_ms % self.nominal_ms == 0
            and (target._origin_ms - self._origin_ms) % self.nominal_ms == 0
        )

    def most_in(self, target: Timeframe) -> int:
        """The most buckets of this timeframe, which tiles `target`, that one of `target` can hold."""
        if self == target:
            return 1
        # Months and years differ in length: the longest are less than four days over the mean.
        longest_ms = target.nominal_ms + (4 * DAY_MS if target.is_calendar else 0)
        return -(-longest_ms // self.nominal_ms)


def day_of(t_ms: int) -> int:
    """The beginning of the UTC day that holds a time."""
    return t_ms - t_ms % DAY_MS


@lru_cache(maxsize=1024)
def _parse(text: str) -> Timeframe:
    match = _PATTERN.fullmatch(text)
    if match is not None:
        timeframe = Timeframe(int(match[1]), match[2])
        if timeframe.nominal_ms <= _LONGEST_MS:
            return timeframe
    raise InvalidInput(
        "A timeframe is a count and one of s, m, h, d, w, M (month) or y, "
        "like 1m, 4h or 1M, of ten years at the most.",
        field="timeframe",
    )


def _month_of(t_ms: int) -> int:
    date = _EPOCH + timedelta(milliseconds=t_ms)
    return date.year * 12 + date.month - 1


def _month_start(month: int) -> int:
    month = min(max(month, _FIRST_MONTH), _LAST_MONTH)
    start = datetime(month // 12, month % 12 + 1, 1, tzinfo=UTC)
    return round((start - _EPOCH).total_seconds()) * 1000
