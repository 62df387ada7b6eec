"""Rows for the buckets without a bar, when a client asks for them. Nothing else ever makes a bar."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import NamedTuple

from marketd.domain.bar import Bar
from marketd.domain.timeframe import Timeframe
from marketd.domain.timerange import TimeRange


class Fill(StrEnum):
    """What a row for an empty bucket says: nothing (`null`), or the previous close and no volume."""

    NULL = "null"
    PREV = "prev"


class Filled(NamedTuple):
    """Rows, ascending, and the times of those that are no bars."""

    rows: list[Bar]
    filled: list[int]


def fill(
    bars: Sequence[Bar], timeframe: Timeframe, span: TimeRange, *, how: Fill, skip: Sequence[TimeRange]
) -> Filled:
    """`bars` and a row for every empty bucket of `span` after the first of them, except in `skip`.

    `skip` holds the ranges that are not proven to be empty: a missing bar there stays missing.
    """
    rows: list[Bar] = []
    filled: list[int] = []
    for index, bar in enumerate(bars):
        rows.append(bar)
        following = bars[index + 1][0] if index + 1 < len(bars) else span.end_ms
        close = bar[4] if how is Fill.PREV else None
        volume = 0.0 if how is Fill.PREV else None
        t_ms = max(timeframe.end(bar[0]), span.start_ms)
        while t_ms < min(following, span.end_ms):
            if any(piece.start_ms <= t_ms < piece.end_ms for piece in skip):
                t_ms = timeframe.end(t_ms)
                continue
            rows.append((t_ms, close, close, close, close, volume))
            filled.append(t_ms)
            t_ms = timeframe.end(t_ms)
    return Filled(rows, filled)
