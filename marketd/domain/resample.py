"""Coarser bars out of finer ones: the one resampler, for REST, live streams and aggregates alike.

open is the first of a bucket, high the highest, low the lowest, close the last, volume the sum; a
bucket without a bar gives none. None means "the source has none" and is passed over; NaN means "not a
number" and makes what is computed from it NaN. The same bars give the same bucket to the last bit,
whatever stands before or after them in the call.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from marketd.domain.bar import Bar, Value
from marketd.domain.timeframe import IntArray, Timeframe

FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class BarColumns:
    """Bars as columns of equal length, ascending by `t` (epoch milliseconds); no None in them."""

    t: IntArray
    open: FloatArray
    high: FloatArray
    low: FloatArray
    close: FloatArray
    volume: FloatArray

    @staticmethod
    def of(bars: Sequence[Bar]) -> BarColumns:
        """The columns of `bars`; None becomes NaN."""
        table = np.array(bars, dtype=np.float64).reshape(-1, 6).T
        # Contiguous columns: numpy then adds up a bucket in the same order wherever it lies.
        open_, high, low, close, volume = (np.ascontiguousarray(column) for column in table[1:])
        return BarColumns(table[0].astype(np.int64), open_, high, low, close, volume)

    def rows(self) -> list[Bar]:
        """The same bars as plain tuples."""
        columns = (self.t, self.open, self.high, self.low, self.close, self.volume)
        return list(zip(*(column.tolist() for column in columns), strict=True))


def resample(bars: Sequence[Bar], target: Timeframe) -> list[Bar]:
    """The bars of `target` that `bars` (ascending, of a timeframe that tiles it) make up."""
    if not bars:
        return []
    columns = BarColumns.of(bars)
    starts = _bucket_starts(columns.t, target)
    result = _reduce(columns, starts, target).rows()
    special = np.isnan(columns.volume)
    for column in (columns.open, columns.high, columns.low, columns.close):
        special |= np.isnan(column)
    if special.any():
        ends = [*starts[1:].tolist(), len(bars)]
        for index in np.flatnonzero(np.logical_or.reduceat(special, starts)).tolist():
            result[index] = _fold(result[index][0], bars[starts[index] : ends[index]])
    return result


def resample_columns(columns: BarColumns, target: Timeframe) -> BarColumns:
    """`resample` for columns that hold neither None nor NaN."""
    if not len(columns.t):
        return columns
    return _reduce(columns, _bucket_starts(columns.t, target), target)


def _bucket_starts(t_ms: IntArray, target: Timeframe) -> npt.NDArray[np.intp]:
    """The index of the first bar of every bucket."""
    buckets = target.floor_array(t_ms)
    changes = np.flatnonzero(buckets[1:] != buckets[:-1]) + 1
    return np.concatenate((np.zeros(1, dtype=np.intp), changes))


def _reduce(columns: BarColumns, starts: npt.NDArray[np.intp], target: Timeframe) -> BarColumns:
    ends = np.concatenate((starts[1:], np.array([len(columns.t)], dtype=np.intp)))
    return BarColumns(
        target.floor_array(columns.t[starts]),
        columns.open[starts],
        np.maximum.reduceat(columns.high, starts),
        np.minimum.reduceat(columns.low, starts),
        columns.close[ends - 1],
        _sum(columns.volume, starts),
    )


def _sum(values: FloatArray, starts: npt.NDArray[np.intp]) -> FloatArray:
    """The sum of every bucket; too large for a float is an infinity, and that is nothing to warn of."""
    with np.errstate(over="ignore", invalid="ignore"):
        return np.add.reduceat(values, starts)


def _fold(t_ms: int, bars: Sequence[Bar]) -> Bar:
    """One bucket with a None or a NaN in it, value by value."""
    _, opens, highs, lows, closes, volumes = zip(*bars, strict=True)
    return (
        t_ms,
        next((value for value in opens if value is not None), None),
        _known(np.maximum.reduce, highs),
        _known(np.minimum.reduce, lows),
        next((value for value in reversed(closes) if value is not None), None),
        _known(_total, volumes),
    )


def _total(values: FloatArray) -> np.float64:
    with np.errstate(over="ignore", invalid="ignore"):
        return np.add.reduce(values)  # type: ignore[no-any-return]


def _known(reduce: Callable[[FloatArray], np.float64], values: Sequence[Value]) -> Value:
    known = [value for value in values if value is not None]
    return float(reduce(np.array(known, dtype=np.float64))) if known else None
