"""A bucket: the bars of one series in a stretch of time, encoded, with the ranges that it proves.

A bucket of 1m bars is four hours long, and those of other timeframes as many bars: a new bar costs
little to read again, and a thousand bars are a handful of buckets. (Measured: an hour makes a read of
1,000 bars slower by its 17 look-ups, a day makes the read after a new bar slower by up to 1,440 rows.)
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from marketd.domain.bar import Bar, select
from marketd.domain.instrument import Series
from marketd.domain.resample import FloatArray
from marketd.domain.timeframe import Timeframe
from marketd.domain.timerange import TimeRange

# How many intervals of its timeframe a bucket is long.
BUCKET_BARS = 240
# One NaN of the many that there are stands for None; NaN itself is always written as the ordinary one.
_NONE = np.uint64(0x7FF8_0000_4E6F_6E65)
_COLUMNS = 6
_HEAD = struct.Struct("<HI")  # how many ranges, how many bars
_RANGE = struct.Struct("<qq")
# About what Python needs for a bucket beside its bars.
_OVERHEAD = 600


class BucketKey(NamedTuple):
    """Which bucket: the `number`-th of its length since 1970."""

    series: Series
    number: int

    @property
    def span(self) -> TimeRange:
        """The times that it is for."""
        length_ms = _length_ms(self.series.timeframe)
        return TimeRange(self.number * length_ms, (self.number + 1) * length_ms)


def bucket_of(series: Series, t_ms: int) -> BucketKey:
    """The bucket that holds a bar which opens at `t_ms`."""
    return BucketKey(series, t_ms // _length_ms(series.timeframe))


def buckets_in(series: Series, span: TimeRange) -> range:
    """The numbers of the buckets that hold a part of `span`, which is not empty."""
    length_ms = _length_ms(series.timeframe)
    return range(span.start_ms // length_ms, (span.end_ms - 1) // length_ms + 1)


def _length_ms(timeframe: Timeframe) -> int:
    return timeframe.nominal_ms * BUCKET_BARS


@dataclass(frozen=True, slots=True, eq=False)
class Bucket:
    """Every bar there is in the ranges `proven`, and no other: a column of `table` for each."""

    table: FloatArray
    proven: Sequence[TimeRange]

    @staticmethod
    def of(bars: Sequence[Bar], proven: Sequence[TimeRange]) -> Bucket:
        """What of `bars`, which ascend, lies in the ranges `proven`, which ascend too."""
        kept = [
            bar for piece in proven for bar in select(bars, since=piece.start_ms, before=piece.end_ms)
        ]
        rows = np.array(kept, dtype=np.float64).reshape(-1, _COLUMNS)
        odd = np.isnan(rows)
        if odd.any():
            rows[odd] = np.nan
            for row, column in np.argwhere(odd).tolist():
                if kept[row][column] is None:
                    rows.view(np.uint64)[row, column] = _NONE
        return Bucket(np.ascontiguousarray(rows.T), tuple(proven))

    @property
    def size(self) -> int:
        """How much memory it takes, in bytes."""
        return self.table.nbytes + _OVERHEAD

    def part(self, span: TimeRange) -> FloatArray:
        """The columns of the bars that open in `span`."""
        start, stop = np.searchsorted(self.table[0], span).tolist()
        return self.table[:, start:stop]

    def to_bytes(self) -> bytes:
        """The same as bytes."""
        head = _HEAD.pack(len(self.proven), self.table.shape[1])
        ranges = b"".join(_RANGE.pack(*piece) for piece in self.proven)
        return b"".join((head, ranges, self.table.tobytes()))

    @staticmethod
    def from_bytes(encoded: bytes) -> Bucket:
        """What `to_bytes` gave; ValueError for anything else."""
        ranges, bars = _HEAD.unpack_from(encoded) if len(encoded) >= _HEAD.size else (0, 0)
        offset = _HEAD.size + ranges * _RANGE.size
        if len(encoded) != offset + bars * _COLUMNS * 8:
            raise ValueError("no bucket")
        proven = [TimeRange(*one) for one in _RANGE.iter_unpack(encoded[_HEAD.size : offset])]
        table = np.frombuffer(encoded, dtype=np.float64, offset=offset).reshape(_COLUMNS, bars)
        return Bucket(table, proven)


def bars_of(parts: Sequence[FloatArray]) -> list[Bar]:
    """The bars of parts of buckets, one after the other."""
    if not parts:
        return []
    t, *values = np.concatenate(parts, axis=1)
    columns = [column.tolist() for column in values]
    for column, plain in zip(values, columns, strict=True):
        if np.isnan(column).any():
            for index in np.flatnonzero(column.view(np.uint64) == _NONE).tolist():
                plain[index] = None
    return list(zip(t.astype(np.int64).tolist(), *columns, strict=True))
