"""What is known of a series, or of an instrument's trades: functions over one connection."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from marketd.domain.coverage import Covered, Reason, lay
from marketd.domain.timerange import TimeRange, merge
from marketd.storage.postgres.connection import Connection

_READ = """
    SELECT array_agg(range_start), array_agg(range_end), array_agg(reason) FROM (
        SELECT range_start, range_end, reason FROM coverage
        WHERE series = $1 AND range_start < $3 AND range_end > $2
          AND range_start >= coalesce(
            (SELECT max(range_start) FROM coverage WHERE series = $1 AND range_start <= $2), $2)
        ORDER BY range_start
    ) AS known
"""
# What overlaps or touches any of several ranges.
_TOUCHED = """
    SELECT DISTINCT range_start, range_end, reason
    FROM unnest($2::bigint[], $3::bigint[]) AS run (first, last), LATERAL (
        SELECT range_start, range_end, reason FROM coverage
        WHERE series = $1 AND range_start <= run.last AND range_end >= run.first
          AND range_start >= coalesce(
            (SELECT max(range_start) FROM coverage WHERE series = $1 AND range_start < run.first),
            run.first)
    ) AS known
    ORDER BY range_start
"""
_DELETE = "DELETE FROM coverage WHERE series = $1 AND range_start = ANY($2::bigint[])"
_INSERT = """
    INSERT INTO coverage (series, range_start, range_end, reason)
    SELECT $1, * FROM unnest($2::bigint[], $3::bigint[], $4::text[])
"""


def _of_ticks(statement: str) -> str:
    return statement.replace("coverage", "tick_coverage").replace("series", "instrument")


class Table(NamedTuple):
    """The statements for one of the two tables of coverage."""

    read: str
    touched: str
    delete: str
    insert: str


BARS = Table(_READ, _TOUCHED, _DELETE, _INSERT)
TICKS = Table(*map(_of_ticks, BARS))


async def read(
    connection: Connection, owner: int, span: TimeRange, *, table: Table = BARS
) -> list[Covered]:
    """What is known of `span`, cut to it."""
    (known,) = await connection.fetch(table.read, owner, *span)
    return rows(known, span)


async def lay_over(
    connection: Connection, owner: int, covered: Sequence[Covered], *, table: Table = BARS
) -> None:
    """Adds statements to what is known; the caller's transaction has locked the owner."""
    stated = lay([], covered)
    runs = merge(one.range for one in stated)
    if not runs:
        return
    # Rows that overlap or touch the new statements may grow together with them.
    touched = await connection.fetch(table.touched, owner, *zip(*runs, strict=True))
    old = [Covered(start_ms, end_ms, Reason(reason)) for start_ms, end_ms, reason in touched]
    new = lay(old, stated)
    gone, added = set(old).difference(new), set(new).difference(old)
    if gone:
        await connection.execute(table.delete, owner, [one.start_ms for one in gone])
    if added:
        await connection.execute(table.insert, owner, *zip(*sorted(added), strict=True))


def rows(row: Any, span: TimeRange | None = None) -> list[Covered]:
    """The ranges in a row of three arrays, whole or cut to `span`."""
    starts, ends, reasons = row
    known = [
        Covered(start_ms, end_ms, Reason(reason))
        for start_ms, end_ms, reason in zip(starts or (), ends or (), reasons or (), strict=True)
    ]
    return known if span is None else [one.clip(span) for one in known]
