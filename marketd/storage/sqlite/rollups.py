"""Coarser bars, computed from the base bars once and kept: functions over one connection.

They are made when they are first asked for, in steps that each read few enough bars to keep nobody
waiting.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import NamedTuple

from marketd.domain import packing
from marketd.domain.bar import Bar
from marketd.domain.bar import select as cut
from marketd.domain.instrument import Series
from marketd.domain.resample import resample
from marketd.domain.timeframe import Timeframe
from marketd.domain.timerange import TimeRange, subtract
from marketd.storage import rollups
from marketd.storage.sqlite import bars, rolled
from marketd.storage.sqlite.names import SeriesIds
from marketd.storage.sqlite.values import decoded, encoded

# Base bars of one step, unless one bucket holds more.
_STEP = 20_000

_READ_ROLLUP = """
    SELECT t, open, high, low, close, volume FROM rollup
    WHERE series = ? AND timeframe = ? AND t >= ? AND t < ?
"""
_FIRST_ROLLUP = f"{_READ_ROLLUP} ORDER BY t LIMIT ?"
_LAST_ROLLUP = f"{_READ_ROLLUP} ORDER BY t DESC LIMIT ?"
_DELETE_ROLLUP = "DELETE FROM rollup WHERE series = ? AND timeframe = ? AND t >= ? AND t < ?"
_INSERT_ROLLUP = """
    INSERT INTO rollup (series, timeframe, t, open, high, low, close, volume)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?)
"""


class Part(NamedTuple):
    """Coarser bars of `span`, which lies at the wanted end of what was asked for.

    All there are in it, or as many as were asked for.
    """

    bars: Sequence[Bar]
    span: TimeRange


def read(
    connection: sqlite3.Connection,
    ids: SeriesIds,
    base: Series,
    timeframe: Timeframe,
    span: TimeRange,
    limit: int,
    newest: bool,
) -> Part | TimeRange:
    """A first part of what `span`, which is of whole buckets, holds; or what has to be built for it."""
    found = ids.find(connection, base)
    if found is None:
        return Part([], span)
    if not rollups.is_kept(base.timeframe, timeframe):
        return compute(connection, ids, base, timeframe, span, limit, newest)
    known = [piece.clip(span) for piece in rolled.read(connection, found, timeframe, span)]
    unknown = subtract(span, [piece for piece in known if not piece.is_empty])
    if newest:
        if unknown and unknown[-1].end_ms == span.end_ms:
            return unknown[-1]
        span = TimeRange(unknown[-1].end_ms if unknown else span.start_ms, span.end_ms)
    else:
        if unknown and unknown[0].start_ms == span.start_ms:
            return unknown[0]
        span = TimeRange(span.start_ms, unknown[0].start_ms if unknown else span.end_ms)
    statement = _LAST_ROLLUP if newest else _FIRST_ROLLUP
    rows = connection.execute(statement, (found, str(timeframe), *span, limit)).fetchall()
    if newest:
        rows.reverse()
    return Part([decoded(row) for row in rows], span)


def compute(
    connection: sqlite3.Connection,
    ids: SeriesIds,
    base: Series,
    timeframe: Timeframe,
    span: TimeRange,
    limit: int,
    newest: bool,
) -> Part:
    """The first or last whole buckets of `span`, about `limit` or as many as a step may take."""
    found = ids.find(connection, base)
    if found is None:
        return Part([], span)
    bucket = base.timeframe.most_in(timeframe)
    most = max(bucket, min(limit * bucket, _STEP))
    rows = packing.unpack(bars.select(connection, found, base.timeframe, span, most, newest))
    if len(rows) == most:
        # The step may have cut a bucket in two.
        if newest:
            span = TimeRange(timeframe.ceil(rows[0][0]), span.end_ms)
        else:
            span = TimeRange(span.start_ms, timeframe.floor(base.timeframe.end(rows[-1][0])))
    return Part(resample(cut(rows, since=span.start_ms, before=span.end_ms), timeframe), span)


def build(
    connection: sqlite3.Connection,
    ids: SeriesIds,
    base: Series,
    timeframe: Timeframe,
    span: TimeRange,
    newest: bool,
) -> Part:
    """Computes a first part of `span` and keeps it; runs inside a transaction of the caller's."""
    part = compute(connection, ids, base, timeframe, span, _STEP, newest)
    found = ids.find(connection, base)
    if found is not None:
        key = (found, str(timeframe))
        connection.execute(_DELETE_ROLLUP, (*key, *part.span))
        connection.executemany(_INSERT_ROLLUP, ((*key, *encoded(bar)) for bar in part.bars))
        rolled.add(connection, found, timeframe, part.span)
    return part


def to_refresh(connection: sqlite3.Connection, ids: SeriesIds, base: Series) -> list[Timeframe]:
    """See rollups.to_refresh; nothing of a series of which nothing is stored."""
    found = ids.find(connection, base)
    if found is None:
        return []
    return rollups.to_refresh(base.timeframe, rolled.timeframes(connection, found))


def next_stale(
    connection: sqlite3.Connection, ids: SeriesIds, base: Series, timeframe: Timeframe, span: TimeRange
) -> TimeRange | None:
    """The first buckets of those that `span` touches and hold bars which are not up to date, if any."""
    found = ids.find(connection, base)
    has = None if found is None else bars.stored_span(connection, found)
    if found is None or has is None:
        return None
    stored = span.clip(has)
    if stored.is_empty:
        return None
    buckets = TimeRange(timeframe.floor(stored.start_ms), timeframe.end(stored.end_ms - 1))
    stale = subtract(buckets, rolled.read(connection, found, timeframe, buckets))
    return stale[0] if stale else None
