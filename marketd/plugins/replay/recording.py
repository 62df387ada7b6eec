"""A recorded series as numpy columns: 48 bytes a bar, and what makes one unfit to be served."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from operator import itemgetter

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

    def __len__(self) -> int:
        return len(self.t)


class BadRow(Exception):
    """The row (counted from 0) that cannot be taken, and why."""

    def __init__(self, row: int, reason: str) -> None:
        super().__init__(reason)
        self.row = row
        self.reason = reason


def check(recording: Recording, timeframe: Timeframe) -> None:
    """Raises BadRow for the first row that is no bar of `timeframe` after the row before it.

    It refuses what `marketd.domain.bar.bar_fault` refuses, and times that do not ascend.
    """
    t = recording.t
    open_, high, low, close, volume = (column.values for column in recording.values)
    step = np.diff(t, prepend=t[:1] - 1)
    # A comparison with NaN is false, so these refuse only what is provably wrong.
    out_of_range = (open_ < low) | (close < low) | (high < low) | (open_ > high) | (close > high)
    checks = (
        ((t < MIN_MS) | (t >= MAX_MS), "its time lies outside the years 1970 to 2099"),
        (step < 0, "its time lies before that of the row above"),
        (step == 0, "its time is that of the row above"),
        (timeframe.floor_array(t) != t, f"its time is not on the grid of {timeframe}"),
        (out_of_range, "its open and close do not lie between its low and high"),
        (volume < 0, "its volume is negative"),
    )
    faults = [(int(np.argmax(wrong)), reason) for wrong, reason in checks if wrong.any()]
    if faults:
        raise BadRow(*min(faults, key=itemgetter(0)))
