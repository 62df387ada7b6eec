"""What is known of a series, or of an instrument's trades, range by range."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

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


def _of_ticks(statement: str) -> str:
    return statement.replace("coverage", "tick_coverage").replace("series", "instrument")


_READ_TICK_COVERAGE = _of_ticks(_READ_COVERAGE)
_DELETE_TICK_COVERAGE = _of_ticks(_DELETE_COVERAGE)
_INSERT_TICK_COVERAGE = _of_ticks(_INSERT_COVERAGE)


class Table(NamedTuple):
    """The statements for one of the two tables of coverage."""

    read: str
    delete: str
    insert: str


BARS = Table(_READ_COVERAGE, _DELETE_COVERAGE, _INSERT_COVERAGE)
TICKS = Table(_READ_TICK_COVERAGE, _DELETE_TICK_COVERAGE, _INSERT_TICK_COVERAGE)


def lay_over(
    connection: sqlite3.Connection, owner: int, covered: Sequence[Covered], *, table: Table = BARS
) -> None:
    """Adds statements to what is known of a series or an instrument, in the caller's transaction."""
    for run in _runs(lay([], covered)):
        # Rows that overlap or touch the new statements may grow together with them.
        start_ms, end_ms = run[0].start_ms, run[-1].end_ms
        old = read(connection, owner, TimeRange(start_ms - 1, end_ms + 1), table=table)
        new = lay(old, run)
        if new != old:
            connection.execute(table.delete, (owner, new[0].start_ms, end_ms + 1))
            connection.executemany(table.insert, ((owner, *one) for one in new))


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


def read(
    connection: sqlite3.Connection, owner: int, span: TimeRange, *, table: Table = BARS
) -> list[Covered]:
    """The stored ranges, whole, that overlap `span`."""
    rows = connection.execute(table.read, (owner, *span))
    return [Covered(start_ms, end_ms, Reason(reason)) for start_ms, end_ms, reason in rows]
