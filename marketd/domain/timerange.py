"""Half-open ranges of time, `[start_ms, end_ms)`, and the arithmetic of lists of them.

Every list taken or given here is sorted and its ranges do not overlap, unless said otherwise.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

MIN_MS = 0  # 1970-01-01
MAX_MS = 4_102_444_800_000  # 2100-01-01: no time at or after it is taken or stored


class TimeRange(NamedTuple):
    """`[start_ms, end_ms)` in epoch milliseconds; empty if the end is not after the start."""

    start_ms: int
    end_ms: int

    @property
    def is_empty(self) -> bool:
        return self.end_ms <= self.start_ms

    def clip(self, other: TimeRange) -> TimeRange:
        """What both hold (empty if nothing)."""
        return TimeRange(max(self.start_ms, other.start_ms), min(self.end_ms, other.end_ms))


EVER = TimeRange(MIN_MS, MAX_MS)


def merge(ranges: Iterable[TimeRange]) -> list[TimeRange]:
    """The same times as `ranges` (in any order, overlapping or not) in the fewest ranges."""
    merged: list[TimeRange] = []
    for piece in sorted(piece for piece in ranges if not piece.is_empty):
        if merged and piece.start_ms <= merged[-1].end_ms:
            merged[-1] = TimeRange(merged[-1].start_ms, max(merged[-1].end_ms, piece.end_ms))
        else:
            merged.append(piece)
    return merged


def subtract(whole: TimeRange, parts: Sequence[TimeRange]) -> list[TimeRange]:
    """What of `whole` is in none of `parts`."""
    left: list[TimeRange] = []
    cursor = whole.start_ms
    for part in parts:
        if part.end_ms <= cursor:
            continue
        if part.start_ms >= whole.end_ms:
            break
        if part.start_ms > cursor:
            left.append(TimeRange(cursor, part.start_ms))
        cursor = part.end_ms
    if cursor < whole.end_ms:
        left.append(TimeRange(cursor, whole.end_ms))
    return left
