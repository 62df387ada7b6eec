"""Bars, read and stored with what they prove: functions over one connection, each run whole."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from marketd.domain.bar import Bar, open_time, same_bar
from marketd.domain.coverage import Covered
from marketd.domain.instrument import Series
from marketd.domain.timerange import TimeRange
from marketd.storage.base import Revision, Stored, StoredBars, reach_of
from marketd.storage.sqlite import coverage, rolled
from marketd.storage.sqlite.names import SeriesIds
from marketd.storage.sqlite.values import any_nan, decoded, encoded

_INSERT_BARS = "INSERT INTO bar (series, t, open, high, low, close, volume) VALUES (?, ?, ?, ?, ?, ?, ?)"
_REVISE_BAR = """
    UPDATE bar SET open = ?, high = ?, low = ?, close = ?, volume = ?, rev = rev + 1, revised_at = ?
    WHERE series = ? AND t = ? RETURNING rev
"""
_READ_BARS = "SELECT t, open, high, low, close, volume FROM bar WHERE series = ? AND t >= ? AND t < ?"
_ALL_BARS = f"{_READ_BARS} ORDER BY t"
_FIRST_BARS = f"{_ALL_BARS} LIMIT ?"
_LAST_BARS = f"{_READ_BARS} ORDER BY t DESC LIMIT ?"


def read(
    connection: sqlite3.Connection,
    ids: SeriesIds,
    series: Series,
    span: TimeRange,
    limit: int,
    newest: bool,
) -> StoredBars:
    """See Storage.read."""
    found = ids.find(connection, series)
    if found is None or span.is_empty:
        return StoredBars([], [])
    bars = select(connection, found, span, limit, newest) if limit else []
    spoken = reach_of(bars, series.timeframe, span, limit=limit, newest=newest).clip(span)
    known = coverage.read(connection, found[0], spoken)
    return StoredBars(bars, [piece.clip(spoken) for piece in known])


def select(
    connection: sqlite3.Connection, found: tuple[int, bool], span: TimeRange, limit: int, newest: bool
) -> list[Bar]:
    """The first or last bars of a series as SeriesIds has found it."""
    series_id, has_nan = found
    statement = _LAST_BARS if newest else _FIRST_BARS
    rows: list[Bar] = connection.execute(statement, (series_id, *span, limit)).fetchall()
    if newest:
        rows.reverse()
    return [decoded(row) for row in rows] if has_nan else rows


def store(
    connection: sqlite3.Connection,
    ids: SeriesIds,
    series: Series,
    bars: Sequence[Bar],
    covered: Sequence[Covered],
    at_ms: int,
) -> Stored:
    """See Storage.store; runs inside a transaction of the caller's."""
    series_id, has_nan = ids.ensure(connection, series, has_nan=any_nan(bars))
    new = bars
    revised: list[Revision] = []
    if bars:
        present = connection.execute(_ALL_BARS, (series_id, bars[0][0], bars[-1][0] + 1)).fetchall()
        if present:
            kept = {row[0]: decoded(row) if has_nan else row for row in present}
            new = [bar for bar in bars if bar[0] not in kept]
            for bar in bars:
                old = kept.get(bar[0])
                if old is not None and not same_bar(old, bar):
                    (rev,) = connection.execute(
                        _REVISE_BAR, (*encoded(bar)[1:], at_ms, series_id, bar[0])
                    ).fetchone()
                    revised.append(Revision(bar, rev))
        rows = map(encoded, new) if has_nan else new
        connection.executemany(_INSERT_BARS, ((series_id, *row) for row in rows))
        changed = [*new[:1], *new[-1:], *(one.bar for one in (*revised[:1], *revised[-1:]))]
        if changed:
            span = TimeRange(min(changed, key=open_time)[0], max(changed, key=open_time)[0] + 1)
            rolled.take_back(connection, series_id, span)
    coverage.lay_over(connection, series_id, covered)
    return Stored(len(new), revised)
