"""Bars as numpy columns, 48 bytes a bar, and what makes one unfit to be kept or served."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from marketd.domain.bar import Bar, Value
from marketd.domain.resample import FloatArray
from marketd.domain.timeframe import IntArray, Timeframe
from marketd.domain.timerange import MAX_MS, MIN_MS

BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Column:
    """The values of one column. `absent` marks those that the source does not have, NaN in `values`;
    it is None where the source has them all."""

    values: FloatArray
    absent: BoolArray | None = None

    @staticmethod
    def of(values: Sequence[Value]) -> Column:
        absent = np.array([value is None for value in values], dtype=np.bool_)
        return Column(np.array(values, dtype=np.float64), absent if absent.any() else None)

    @staticmethod
    def join(parts: Sequence[Column]) -> Column:
        values = np.concatenate([part.values for part in parts])
        if all(part.absent is None for part in parts):
            return Column(values)
        absent = [
            np.zeros(len(part.values), np.bool_) if part.absent is None else part.absent
            for part in parts
        ]
        return Column(values, np.concatenate(absent))

    def select(self, rows: BoolArray | slice) -> Column:
        """Those of the values."""
        absent = None if self.absent is None else self.absent[rows]
        return Column(self.values[rows], absent)

    def take(self, index: IntArray) -> list[Value]:
        """The values at `index`, None where the source has none."""
        values: list[Value] = self.values[index].tolist()
        if self.absent is None:
            return values
        absent = self.absent[index].tolist()
        return [None if gone else value for value, gone in zip(values, absent, strict=True)]


@dataclass(frozen=True, slots=True, eq=False)
class Recording:
    """Bars ascending by `t` (epoch milliseconds); `values` are open, high, low, close and volume."""

    t: IntArray
    values: tuple[Column, ...]

    @staticmethod
    def of(bars: Sequence[Bar]) -> Recording:
        """The columns of at least one bar."""
        t, *values = zip(*bars, strict=True)
        return Recording(np.array(t, dtype=np.int64), tuple(map(Column.of, values)))

    @staticmethod
    def join(parts: Sequence[Recording]) -> Recording:
        """One after the other, as they are."""
        values = zip(*(part.values for part in parts), strict=True)
        return Recording(np.concatenate([part.t for part in parts]), tuple(map(Column.join, values)))

    def select(self, rows: BoolArray | slice) -> Recording:
        """Those of the rows, in their order or in that of the slice."""
        return Recording(self.t[rows], tuple(column.select(rows) for column in self.values))

    def bars(self) -> list[Bar]:
        """The rows as tuples."""
        every = np.arange(len(self))
        values = (column.take(every) for column in self.values)
        return list(zip(self.t.tolist(), *values, strict=True))

    def __len__(self) -> int:
        return len(self.t)


class Fault(NamedTuple):
    """A row (counted from 0) that cannot be taken, and why."""

    row: int
    reason: str


def faults(
    recording: Recording,
    timeframe: Timeframe,
    *,
    before_ms: int = MAX_MS,
    after_ms: int | None = None,
    descends: bool = False,
) -> list[Fault]:
    """The rows, ascending, that are no bar of `timeframe` after the good row before, each with why.

    Refused is what `marketd.domain.bar.bar_fault` refuses, bars that open at or after `before_ms`, and
    times that do not ascend (or, if the recording `descends`, descend) from `after_ms` on.
    """
    t = recording.t
    open_, high, low, close, volume = (column.values for column in recording.values)
    # A comparison with NaN is false, so these refuse only what is provably wrong.
    out_of_range = (open_ < low) | (close < low) | (high < low) | (open_ > high) | (close > high)
    outside = (t < MIN_MS) | (t >= MAX_MS)
    checks = [
        (outside, "its time lies outside the years 1970 to 2099"),
        (t >= before_ms, "its interval has not ended yet"),
        (
            timeframe.floor_array(np.where(outside, 0, t)) != t,
            f"its time is not on the grid of {timeframe}",
        ),
        (out_of_range, "its open and close do not lie between its low and high"),
        (volume < 0, "its volume is negative"),
    ]
    wrong = np.logical_or.reduce([refused for refused, _ in checks])
    forward, first = (-t, MAX_MS) if descends else (t, MIN_MS)
    start = -first - 1 if after_ms is None else (-after_ms if descends else after_ms)
    # The times so far, of which a refused row is no part.
    reached = np.maximum.accumulate(np.concatenate([[start], np.where(wrong, start, forward)]))[:-1]
    side = "after" if descends else "before"
    checks.append((~wrong & (forward == reached), "its time is that of the row above"))
    checks.append((~wrong & (forward < reached), f"its time lies {side} that of the row above"))
    found: dict[int, str] = {}
    for refused, reason in checks:
        for row in np.flatnonzero(refused).tolist():
            found.setdefault(row, reason)
    return [Fault(row, found[row]) for row in sorted(found)]
