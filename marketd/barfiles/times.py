"""Times as files have them: epoch numbers of some unit, or dates and times of some zone."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, tzinfo
from typing import Any, NamedTuple

import numpy as np

from marketd.domain.timeframe import IntArray

# How a column of times may be written: as epoch numbers of a unit, or as text such as 2024-03-05 14:30.
EPOCH_UNITS = {"s": "seconds", "ms": "milliseconds", "us": "microseconds", "ns": "nanoseconds"}
TEXT = "text"
AUTO = "auto"

_PER_MS = {"us": 1_000, "ns": 1_000_000}
_DIGITS = re.compile(r"-?[0-9]{1,18}|[0-9]{19}")
_EPOCH = datetime(1970, 1, 1)  # noqa: DTZ001 - counted from in the zone of the file
_MICROSECOND = timedelta(microseconds=1)
_FAR = 2**53  # further than any time that is taken, and no product with 1,000 overflows
_LARGEST = 2**63 - 1


@dataclass(frozen=True, slots=True)
class TimeFormat:
    """How a file writes times: `unit` is a key of EPOCH_UNITS, TEXT or AUTO (as the first row looks);
    `zone` is that of dates and times which do not say theirs."""

    unit: str = AUTO
    zone: tzinfo = UTC


class Times(NamedTuple):
    """Epoch milliseconds of each row, and what is wrong by row; a row at fault has any time."""

    t_ms: IntArray
    wrong: dict[int, str]


def unit_of(first: object) -> str:
    """The unit that the first value of a column suggests: text, or by its size from 1973 on."""
    text = str(first).strip()
    if not _DIGITS.fullmatch(text):
        return TEXT
    size = abs(int(text))
    return next((unit for unit, end in (("s", 1e11), ("ms", 1e14), ("us", 1e17)) if size < end), "ns")


def from_texts(texts: Sequence[str], unit: str, zone: tzinfo) -> Times:
    """The times of cells of a text file, `unit` known."""
    if unit == TEXT:
        return _each(texts, lambda text: _of_text(text, zone))
    try:
        if all(map(str.isdecimal, texts)) and "".join(texts).isascii():
            return from_numbers(np.array(list(map(int, texts)), dtype=np.int64), unit)
    except (OverflowError, ValueError):
        pass  # one of them has too many digits: each is looked at
    numbers = _each(texts, lambda text: _number(text, unit))
    times = from_numbers(numbers.t_ms, unit)
    return Times(times.t_ms, {**times.wrong, **numbers.wrong})


def from_numbers(numbers: IntArray, unit: str) -> Times:
    """The times of epoch numbers."""
    if unit == "s":
        return Times(np.clip(numbers, -_FAR, _FAR) * 1_000, {})
    per_ms = _PER_MS.get(unit, 1)
    t_ms, rest = np.divmod(numbers, per_ms)
    reason = "its time is no whole millisecond"
    return Times(t_ms, dict.fromkeys(np.flatnonzero(rest).tolist(), reason))


def from_datetimes(values: Sequence[datetime | date], zone: tzinfo) -> Times:
    """The times of dates and times, those without a zone in `zone`."""
    return _each(values, lambda value: _of_datetime(_as_datetime(value), zone))


def _each(values: Sequence[Any], read: Callable[[Any], int]) -> Times:
    t_ms: list[int] = []
    wrong: dict[int, str] = {}
    for row, value in enumerate(values):
        try:
            t_ms.append(read(value))
            continue
        except OverflowError:
            wrong[row] = "its time lies outside the years 1970 to 2099"
        except ValueError as error:
            wrong[row] = str(error)
        t_ms.append(0)
    return Times(np.array(t_ms, dtype=np.int64), wrong)


def _number(text: str, unit: str) -> int:
    text = text.strip()
    if _DIGITS.fullmatch(text) is None or int(text) > _LARGEST:
        raise ValueError(f"{text[:30]!r} is not a time in epoch {EPOCH_UNITS[unit]}")
    return int(text)


def _of_text(text: str, zone: tzinfo) -> int:
    text = text.strip()
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{text[:30]!r} is not a time like 2024-03-05 14:30") from None
    return _of_datetime(time, zone)


def _as_datetime(value: datetime | date) -> datetime:
    if isinstance(value, datetime):
        return value
    return datetime(value.year, value.month, value.day)  # noqa: DTZ001 - the zone is the file's


def _of_datetime(time: datetime, zone: tzinfo) -> int:
    if time.tzinfo is None and zone is not UTC:
        time = time.replace(tzinfo=zone)
        if time.utcoffset() != time.replace(fold=1).utcoffset():
            raise ValueError(f"{time:%Y-%m-%d %H:%M} is no one time in {zone}, whose clocks change then")
    if time.tzinfo is not None:
        offset = time.utcoffset()
        assert offset is not None  # noqa: S101 - every zone has one
        time = time.replace(tzinfo=None) - offset
    t_ms, rest = divmod((time - _EPOCH) // _MICROSECOND, 1_000)
    if rest:
        raise ValueError("its time is no whole millisecond")
    return t_ms
