"""What is said to SQLite: plain functions over one connection, each run whole in its thread."""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Iterable, Sequence
from typing import Any

from marketd.domain.bar import Bar, same_bar
from marketd.domain.coverage import Covered, Reason, lay
from marketd.domain.instrument import Series
from marketd.domain.timerange import TimeRange, merge
from marketd.storage.base import Revision, Stored, StoredBars

_FIND_SERIES = """
    SELECT id, has_nan FROM series
    WHERE (market, provider, symbol, timeframe, variant) = (?, ?, ?, ?, ?)
"""
_MARK_SERIES = """
    INSERT INTO series (market, provider, symbol, timeframe, variant, has_nan)
    VALUES (?, ?, ?, ?, ?, ?)
    ON CONFLICT DO UPDATE SET has_nan = has_nan OR excluded.has_nan
"""
_INSERT_BARS = "INSERT INTO bar (series, t, open, high, low, close, volume) VALUES (?, ?, ?, ?, ?, ?, ?)"
_REVISE_BAR = """
    UPDATE bar SET open = ?, high = ?, low = ?, close = ?, volume = ?, rev = rev + 1, revised_at = ?
    WHERE series = ? AND t = ? RETURNING rev
"""
_READ_BARS = "SELECT t, open, high, low, close, volume FROM bar WHERE series = ? AND t >= ? AND t < ?"
_ALL_BARS = f"{_READ_BARS} ORDER BY t"
_FIRST_BARS = f"{_ALL_BARS} LIMIT ?"
_LAST_BARS = f"{_READ_BARS} ORDER BY t DESC LIMIT ?"
_READ_COVERAGE = """
    SELECT range_start, range_end, reason FROM coverage
    WHERE series = ?1 AND range_start < ?3 AND range_end > ?2
      AND range_start >= coalesce(
        (SELECT max(range_start) FROM coverage WHERE series = ?1 AND range_start <= ?2), ?2)
    ORDER BY range_start
"""
_DELETE_COVERAGE = "DELETE FROM coverage WHERE series = ? AND range_start >= ? AND range_start < ?"
_INSERT_COVERAGE = """
    INSERT INTO coverage (series, range_start, range_end, reason) VALUES (?, ?, ?, ?)
"""
_NAN = "NaN"


class SeriesIds:
    """The row number of every series met so far, with whether NaN may be among its bars."""

    def __init__(self) -> None:
        self._known: dict[Series, tuple[int, bool]] = {}

    def find(self, connection: sqlite3.Connection, series: Series) -> tuple[int, bool] | None:
        """(id, has_nan) of a stored series, None if nothing of it was ever stored."""
        if series not in self._known:
            row = connection.execute(_FIND_SERIES, _key(series)).fetchone()
            if row is None:
                return None
            self._known[series] = (row[0], bool(row[1]))
        return self._known[series]

    def ensure(
        self, connection: sqlite3.Connection, series: Series, *, has_nan: bool
    ) -> tuple[int, bool]:
        """(id, has_nan) of the series, made or marked if need be, within the caller's transaction."""
        found = self.find(connection, series)
        if found is None or (has_nan and not found[1]):
            connection.execute(_MARK_SERIES, (*_key(series), has_nan))
            self.forget(series)
            found = self.find(connection, series)
            assert found is not None  # noqa: S101 - written in this very transaction
        return found

    def forget(self, series: Series) -> None:
        """Drops what is known of a series: needed when the transaction that taught it was undone."""
        self._known.pop(series, None)


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
    series_id, has_nan = found
    rows: list[Bar] = []
    if limit:
        statement = _LAST_BARS if newest else _FIRST_BARS
        rows = connection.execute(statement, (series_id, *span, limit)).fetchall()
    if newest:
        rows.reverse()
    if has_nan:
        rows = [_decoded(row) for row in rows]
    coverage = _coverage(connection, series_id, span)
    return StoredBars(rows, [piece.clip(span) for piece in coverage])


def store(
    connection: sqlite3.Connection,
    ids: SeriesIds,
    series: Series,
    bars: Sequence[Bar],
    covered: Sequence[Covered],
    at_ms: int,
) -> Stored:
    """See Storage.store; runs inside a transaction of the caller's."""
    series_id, has_nan = ids.ensure(connection, series, has_nan=_any_nan(bars))
    new: Iterable[Bar] = bars
    revised: list[Revision] = []
    inserted = len(bars)
    if bars:
        present = connection.execute(_ALL_BARS, (series_id, bars[0][0], bars[-1][0] + 1)).fetchall()
        if present:
            kept = {row[0]: _decoded(row) if has_nan else row for row in present}
            new = [bar for bar in bars if bar[0] not in kept]
            inserted = len(new)
            for bar in bars:
                old = kept.get(bar[0])
                if old is not None and not same_bar(old, bar):
                    (rev,) = connection.execute(
                        _REVISE_BAR, (*_encoded(bar)[1:], at_ms, series_id, bar[0])
                    ).fetchone()
                    revised.append(Revision(bar, rev))
        if has_nan:
            new = map(_encoded, new)
        connection.executemany(_INSERT_BARS, ((series_id, *bar) for bar in new))
    _lay_coverage(connection, series_id, covered)
    return Stored(inserted, revised)


def _lay_coverage(connection: sqlite3.Connection, series_id: int, covered: Sequence[Covered]) -> None:
    stated = lay([], covered)
    for run in merge(one.range for one in stated):
        # Rows that overlap or touch the new statements may grow together with them.
        old = _coverage(connection, series_id, TimeRange(run.start_ms - 1, run.end_ms + 1))
        new = lay(old, [one for one in stated if not one.range.clip(run).is_empty])
        if new != old:
            connection.execute(_DELETE_COVERAGE, (series_id, new[0].start_ms, run.end_ms + 1))
            connection.executemany(_INSERT_COVERAGE, ((series_id, *one) for one in new))


def _coverage(connection: sqlite3.Connection, series_id: int, span: TimeRange) -> list[Covered]:
    """The stored ranges, whole, that overlap `span`."""
    rows = connection.execute(_READ_COVERAGE, (series_id, *span))
    return [Covered(start_ms, end_ms, Reason(reason)) for start_ms, end_ms, reason in rows]


def _key(series: Series) -> tuple[str, str, str, str, str]:
    what = series.instrument
    return (what.market, what.provider, what.symbol, str(series.timeframe), series.variant)


def _any_nan(bars: Sequence[Bar]) -> bool:
    # Only NaN differs from itself. Written out, since every bar that is stored passes here.
    for _, open_, high, low, close, volume in bars:
        if open_ != open_ or high != high or low != low or close != close or volume != volume:
            return True
    return False


def _encoded(bar: Bar) -> tuple[Any, ...]:
    return tuple(_NAN if value != value else value for value in bar)


def _decoded(row: tuple[Any, ...]) -> Bar:
    open_, high, low, close, volume = (math.nan if value == _NAN else value for value in row[1:])
    return (row[0], open_, high, low, close, volume)
