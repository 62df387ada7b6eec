"""For which ranges of a series what is kept of coarser bars is that of the stored bars.

What is kept has a name that ends in its timeframe: `1h` is the table of rollups, `bar_1h` a view.
"""

from __future__ import annotations

from collections.abc import Sequence

from marketd.domain.timeframe import Timeframe
from marketd.domain.timerange import TimeRange, merge, subtract
from marketd.storage.postgres.connection import Connection
from marketd.storage.rollups import touched_buckets

_OVERLAPPING = """
    SELECT kept, range_start, range_end, claim FROM fresh
    WHERE series = $1 AND range_start < $3 AND range_end > $2
"""
_FRESH = """
    SELECT range_start, range_end FROM fresh
    WHERE series = $1 AND kept = $2 AND range_start <= $4 AND range_end >= $3 AND claim IS NULL
    ORDER BY range_start
"""
_KEPT = "SELECT DISTINCT kept FROM fresh WHERE series = $1"
_DELETE = "DELETE FROM fresh WHERE series = $1 AND kept = $2 AND range_start = $3"
_INSERT = "INSERT INTO fresh (series, kept, range_start, range_end, claim) VALUES ($1, $2, $3, $4, $5)"
_DELETE_CLAIMS = """
    DELETE FROM fresh WHERE series = $1 AND kept = $2 AND range_start < $4 AND range_end > $3
        AND claim IS NOT NULL
"""
_END_CLAIM = """
    DELETE FROM fresh WHERE series = $1 AND kept = $2 AND claim = $3 RETURNING range_start, range_end
"""


async def spoil(connection: Connection, series_id: int, changed: TimeRange) -> None:
    """Within a write of bars: what they are part of is fresh no more, nor what is being made of them."""
    # They are of whole buckets, so that what is touched is what overlaps.
    for kept, start_ms, end_ms, claim in await connection.fetch(_OVERLAPPING, series_id, *changed):
        touched = touched_buckets(Timeframe.parse(kept.removeprefix("bar_")), changed)
        await connection.execute(_DELETE, series_id, kept, start_ms)
        for piece in subtract(TimeRange(start_ms, end_ms), [touched]):
            await connection.execute(_INSERT, series_id, kept, *piece, claim)


async def fresh(connection: Connection, series_id: int, kept: str, span: TimeRange) -> list[TimeRange]:
    """The fresh ranges that overlap or touch `span`, whole."""
    return [TimeRange(*row) for row in await connection.fetch(_FRESH, series_id, kept, *span)]


async def kept(connection: Connection, series_id: int) -> set[str]:
    """Of which anything of a series is fresh."""
    return {row[0] for row in await connection.fetch(_KEPT, series_id)}


async def freshen(connection: Connection, series_id: int, kept: str, made: Sequence[TimeRange]) -> None:
    """Adds ranges; in a transaction that has locked the series, and read its bars only since then."""
    for piece in merge(made):
        touching = await fresh(connection, series_id, kept, piece)
        (grown,) = merge([piece, *touching])
        for old in touching:
            await connection.execute(_DELETE, series_id, kept, old.start_ms)
        await connection.execute(_INSERT, series_id, kept, *grown, None)


async def claim(
    connection: Connection, series_id: int, kept: str, pieces: Sequence[TimeRange], number: int
) -> None:
    """Says that `pieces`, none of them fresh, are about to be made outside of the transaction.

    A write that comes in between spoils the claim like anything fresh.
    """
    for piece in pieces:
        await connection.execute(_DELETE_CLAIMS, series_id, kept, *piece)
        await connection.execute(_INSERT, series_id, kept, *piece, number)


async def end_claim(connection: Connection, series_id: int, kept: str, number: int) -> list[TimeRange]:
    """Forgets a claim, and gives what was left of it."""
    rows = await connection.fetch(_END_CLAIM, series_id, kept, number)
    return merge(TimeRange(*row) for row in rows)
