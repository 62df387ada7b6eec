"""Where the bars computed ahead are what the base bars give: of a series, by timeframe, in ranges.

A row of `rollup` outside of these ranges means nothing. Whatever changes a base bar takes back the
buckets that hold it in the same transaction, so that what is out of date is never read.
"""

from __future__ import annotations

import sqlite3

from marketd.domain.timeframe import Timeframe
from marketd.domain.timerange import TimeRange, merge, subtract

_READ_ROLLED = """
    SELECT range_start, range_end FROM rolled
    WHERE series = ?1 AND timeframe = ?2 AND range_start <= ?4 AND range_end >= ?3
    ORDER BY range_start
"""
_TOUCHED_ROLLED = """
    SELECT timeframe, range_start, range_end FROM rolled
    WHERE series = ?1 AND range_start < ?3 AND range_end > ?2
"""
_TIMEFRAMES = "SELECT DISTINCT timeframe FROM rolled WHERE series = ?"
_DELETE_ROLLED = "DELETE FROM rolled WHERE series = ? AND timeframe = ? AND range_start = ?"
_INSERT_ROLLED = "INSERT INTO rolled (series, timeframe, range_start, range_end) VALUES (?, ?, ?, ?)"


def read(
    connection: sqlite3.Connection, series_id: int, timeframe: Timeframe, span: TimeRange
) -> list[TimeRange]:
    """The ranges, whole, that overlap or touch `span`."""
    rows = connection.execute(_READ_ROLLED, (series_id, str(timeframe), *span))
    return [TimeRange(*row) for row in rows]


def timeframes(connection: sqlite3.Connection, series_id: int) -> set[Timeframe]:
    """Of which anything of a series has been computed."""
    return {Timeframe.parse(name) for (name,) in connection.execute(_TIMEFRAMES, (series_id,))}


def add(connection: sqlite3.Connection, series_id: int, timeframe: Timeframe, span: TimeRange) -> None:
    """Says that the buckets of `span` have been computed, within the caller's transaction."""
    touching = read(connection, series_id, timeframe, span)
    (grown,) = merge([span, *touching])
    key = (series_id, str(timeframe))
    connection.executemany(_DELETE_ROLLED, ((*key, piece.start_ms) for piece in touching))
    connection.execute(_INSERT_ROLLED, (*key, *grown))


def take_back(connection: sqlite3.Connection, series_id: int, changed: TimeRange) -> None:
    """Says that base bars have changed there, within the transaction that changes them."""
    for name, *ends in connection.execute(_TOUCHED_ROLLED, (series_id, *changed)).fetchall():
        timeframe, was = Timeframe.parse(name), TimeRange(*ends)
        stale = TimeRange(timeframe.floor(changed.start_ms), timeframe.end(changed.end_ms - 1))
        connection.execute(_DELETE_ROLLED, (series_id, name, was.start_ms))
        rest = subtract(was, [stale])
        connection.executemany(_INSERT_ROLLED, ((series_id, name, *piece) for piece in rest))
