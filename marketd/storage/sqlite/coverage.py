"""What is known of a series, range by range."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence

from marketd.domain.coverage import Covered, Reason, lay
from marketd.domain.timerange import TimeRange

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


def lay_over(connection: sqlite3.Connection, series_id: int, covered: Sequence[Covered]) -> None:
    """Adds statements to what is known, within the caller's transaction."""
    for run in _runs(lay([], covered)):
        # Rows that overlap or touch the new statements may grow together with them.
        start_ms, end_ms = run[0].start_ms, run[-1].end_ms
        old = read(connection, series_id, TimeRange(start_ms - 1, end_ms + 1))
        new = lay(old, run)
        if new != old:
            connection.execute(_DELETE_COVERAGE, (series_id, new[0].start_ms, end_ms + 1))
            connection.executemany(_INSERT_COVERAGE, ((series_id, *one) for one in new))


def _runs(stated: Iterable[Covered]) -> Iterator[list[Covered]]:
    """The statements, in pieces that do not touch each other."""
    run: list[Covered] = []
    for one in stated:
        if run and run[-1].end_ms < one.start_ms:
            yield run
            run = []
        run.append(one)
    if run:
        yield run


def read(connection: sqlite3.Connection, series_id: int, span: TimeRange) -> list[Covered]:
    """The stored ranges, whole, that overlap `span`."""
    rows = connection.execute(_READ_COVERAGE, (series_id, *span))
    return [Covered(start_ms, end_ms, Reason(reason)) for start_ms, end_ms, reason in rows]
