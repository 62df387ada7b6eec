"""Bars as bytes: 48 of each, one after another, so that a thousand are read in one step.

The open time as a little-endian int64, then open, high, low, close and volume as float64. None is one
NaN out of the many that there are; every other NaN is a NaN.
"""

from __future__ import annotations

import struct
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from itertools import starmap
from typing import Any

import numpy as np
import numpy.typing as npt

from marketd.domain.bar import Bar
from marketd.domain.timerange import TimeRange

_BAR = struct.Struct("<q5d")
_BITS = struct.Struct("<6q")
_TIME = struct.Struct("<q")
# A quiet NaN that no arithmetic gives: the letters after its first two bytes say whose it is.
_NONE_BYTES = b"tekram\xf8\x7f"
(_NONE_BITS,) = _TIME.unpack(_NONE_BYTES)
(_NONE,) = struct.unpack("<d", _NONE_BYTES)

SIZE = _BAR.size
"""Bytes of one bar."""
_PIECE = 1_000 * SIZE


def pack(bars: Iterable[Bar]) -> bytes:
    """The bytes of `bars`."""
    bars = list(bars)
    try:
        return b"".join(starmap(_BAR.pack, bars))
    except struct.error:
        rows = (tuple(_NONE if value is None else value for value in bar) for bar in bars)
        return b"".join(starmap(_BAR.pack, rows))


def unpack(packed: bytes) -> list[Bar]:
    """What `pack` was given; struct.error of bytes that are not whole bars."""
    bars: list[Bar] = []
    # Between two pieces other threads have their turn.
    for first in range(0, len(packed), _PIECE):
        bars += _rows(packed[first : first + _PIECE])
    return bars


def _rows(packed: bytes) -> Iterator[Any]:
    rows = _BAR.iter_unpack(packed)
    if _NONE_BYTES in packed:
        # Of the values, which are floats by now, one NaN cannot be told from another.
        return map(_with_none, rows, _BITS.iter_unpack(packed))
    return rows


def first_time(packed: bytes) -> int:
    """The open time of the first bar."""
    time_ms: int = _TIME.unpack_from(packed)[0]
    return time_ms


def last_time(packed: bytes) -> int:
    """The open time of the last bar."""
    time_ms: int = _TIME.unpack_from(packed, len(packed) - SIZE)[0]
    return time_ms


def times(packed: bytes) -> npt.NDArray[np.int64]:
    """Every open time."""
    return np.frombuffer(packed, dtype="<i8")[:: SIZE // 8]


def cut(packed: bytes, span: TimeRange) -> bytes:
    """The bars that open in `span`."""
    return packed[_place(packed, span.start_ms) : _place(packed, span.end_ms)]


def _place(packed: bytes, time_ms: int) -> int:
    """Where the first bar begins that opens at or after a time."""
    if not packed or time_ms <= first_time(packed):
        return 0
    if time_ms > last_time(packed):
        return len(packed)
    numbers = range(len(packed) // SIZE)
    number = bisect_left(
        numbers, time_ms, key=lambda number: _TIME.unpack_from(packed, SIZE * number)[0]
    )
    return number * SIZE


def _with_none(bar: tuple[Any, ...], bits: tuple[int, ...]) -> tuple[Any, ...]:
    return tuple(None if bit == _NONE_BITS else value for value, bit in zip(bar, bits, strict=True))
