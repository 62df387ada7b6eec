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

from marketd.domain import packing
from marketd.domain.bar import Bar, select
from marketd.domain.instrument import Series
from marketd.domain.timeframe import Timeframe
from marketd.domain.timerange import TimeRange

# How many intervals of its timeframe a bucket is long.
BUCKET_BARS = 240
_HEAD = struct.Struct("<H")  # how many ranges
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


@dataclass(frozen=True, slots=True)
class Bucket:
    """Every bar there is in the ranges `proven`, packed, and no other."""

    packed: bytes
    proven: Sequence[TimeRange]

    @staticmethod
    def of(bars: Sequence[Bar], proven: Sequence[TimeRange]) -> Bucket:
        """What of `bars`, which ascend, lies in the ranges `proven`, which ascend too."""
        kept = [
            bar for piece in proven for bar in select(bars, since=piece.start_ms, before=piece.end_ms)
        ]
        return Bucket(packing.pack(kept), tuple(proven))

    @property
    def size(self) -> int:
        """How much memory it takes, in bytes."""
        return len(self.packed) + _OVERHEAD

    def to_bytes(self) -> bytes:
        """The same as bytes."""
        ranges = b"".join(_RANGE.pack(*piece) for piece in self.proven)
        return b"".join((_HEAD.pack(len(self.proven)), ranges, self.packed))

    @staticmethod
    def from_bytes(encoded: bytes) -> Bucket:
        """What `to_bytes` gave; ValueError for anything else."""
        ranges = _HEAD.unpack_from(encoded)[0] if len(encoded) >= _HEAD.size else 0
        offset = _HEAD.size + ranges * _RANGE.size
        packed = encoded[offset:]
        if len(encoded) < offset or len(packed) % packing.SIZE:
            raise ValueError("no bucket")
        proven = [TimeRange(*one) for one in _RANGE.iter_unpack(encoded[_HEAD.size : offset])]
        return Bucket(packed, tuple(proven))
