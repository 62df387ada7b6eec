"""What is said to PostgreSQL of bars: functions over one connection.

Bars travel as arrays, one a column: a page is one statement and one row. Larger reads and writes are
cut into pieces, so that neither making nor taking apart the arrays holds up the event loop.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

from asyncpg import Record

from marketd.domain.bar import Bar
from marketd.domain.coverage import Covered
from marketd.domain.timerange import TimeRange
from marketd.storage.postgres import coverage
from marketd.storage.postgres.connection import Connection
from marketd.storage.postgres.freshness import spoil
from marketd.storage.records import Revised, Revision, Stored, StoredBars

# The most bars in one statement.
PIECE = 5_000

_FIRST_BARS = """
    SELECT array_agg(t), array_agg(open), array_agg(high), array_agg(low), array_agg(close),
        array_agg(volume)
    FROM (
        SELECT t, open, high, low, close, volume FROM bar
        WHERE series = $1 AND t >= $2 AND t < $3 ORDER BY t LIMIT $4
    ) AS page
"""
_LAST_BARS = _FIRST_BARS.replace("ORDER BY t", "ORDER BY t DESC")
_FIRST_BARS_AND_COVERAGE, _LAST_BARS_AND_COVERAGE = (
    f"SELECT * FROM ({page}) AS bars, ({coverage.BARS.read}) AS coverage"  # noqa: S608
    for page in (_FIRST_BARS, _LAST_BARS)
)
# NaN equals NaN in PostgreSQL, so that "distinct" means here what same_bar denies. A change is numbered;
# so is a bar that is new where something was known before this statement.
_UPSERT = """
    WITH written AS (
        INSERT INTO bar (series, t, open, high, low, close, volume)
        SELECT $1, * FROM unnest(
            $3::bigint[], $4::float8[], $5::float8[], $6::float8[], $7::float8[], $8::float8[])
        ON CONFLICT (series, t) DO UPDATE SET open = excluded.open, high = excluded.high,
            low = excluded.low, close = excluded.close, volume = excluded.volume,
            rev = bar.rev + 1, revised_at = $2
        WHERE (bar.open, bar.high, bar.low, bar.close, bar.volume) IS DISTINCT FROM
            (excluded.open, excluded.high, excluded.low, excluded.close, excluded.volume)
        RETURNING t, rev
    ), numbered AS (
        INSERT INTO revision (series, t, number)
        SELECT $1, t, (SELECT coalesce(max(number), 0) + 1 FROM revision WHERE series = $1) FROM written
        WHERE rev > 0 OR t < (
            SELECT range_end FROM coverage WHERE series = $1 AND range_start <= written.t
            ORDER BY range_start DESC LIMIT 1)
        ON CONFLICT (series, t) DO UPDATE SET number = excluded.number
        RETURNING t
    )
    SELECT count(*) FILTER (WHERE rev = 0),
        array_agg(t) FILTER (WHERE rev > 0), array_agg(rev) FILTER (WHERE rev > 0),
        (SELECT count(*) FROM numbered)
    FROM written
"""
_NUMBER = "SELECT coalesce(max(number), 0) FROM revision WHERE series = $1"
_REVISED = """
    SELECT bar.t, open, high, low, close, volume, rev FROM (
        SELECT t FROM revision WHERE series = $1 AND number > $2 ORDER BY number DESC, t DESC LIMIT $3
    ) AS latest JOIN bar ON bar.series = $1 AND bar.t = latest.t ORDER BY bar.t
"""


async def read(
    connection: Connection, series_id: int, span: TimeRange, *, limit: int, newest: bool
) -> StoredBars:
    """See Storage.read."""
    if limit > PIECE:
        # All pieces of one instant.
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            bars = await read_bars(connection, series_id, span, limit=limit, newest=newest)
            known = await coverage.read(connection, series_id, span)
        return StoredBars(bars, known)
    both = _LAST_BARS_AND_COVERAGE if newest else _FIRST_BARS_AND_COVERAGE
    (row,) = await connection.fetch(both, series_id, *span, limit)
    return StoredBars(_bars(row, newest), coverage.rows(row[6:], span))


async def read_bars(
    connection: Connection, series_id: int, span: TimeRange, *, limit: int, newest: bool = False
) -> list[Bar]:
    """The first or last `limit` bars of `span`, piece by piece."""
    statement = _LAST_BARS if newest else _FIRST_BARS
    pieces: list[list[Bar]] = []
    while limit > 0:
        (row,) = await connection.fetch(statement, series_id, *span, min(limit, PIECE))
        piece = _bars(row, newest)
        pieces.append(piece)
        if len(piece) < PIECE:
            break
        limit -= len(piece)
        if newest:
            span = TimeRange(span.start_ms, piece[0][0])
        else:
            span = TimeRange(piece[-1][0] + 1, span.end_ms)
    return list(chain.from_iterable(reversed(pieces) if newest else pieces))


async def store(
    connection: Connection, series_id: int, bars: Sequence[Bar], covered: Sequence[Covered], at_ms: int
) -> Stored:
    """See Storage.store; inside a transaction of the caller's, who has locked the series."""
    inserted = late = 0
    revised: list[Revision] = []
    for first in range(0, len(bars), PIECE):
        piece = bars[first : first + PIECE]
        ((new, times, revs, numbered),) = await connection.fetch(
            _UPSERT, series_id, at_ms, *zip(*piece, strict=True)
        )
        inserted += new
        late += numbered - len(times or ())
        if times:
            changed = dict(zip(times, revs, strict=True))
            revised += [Revision(bar, changed[bar[0]]) for bar in piece if bar[0] in changed]
    if inserted or revised:
        await spoil(connection, series_id, TimeRange(bars[0][0], bars[-1][0] + 1))
    await coverage.lay_over(connection, series_id, covered)
    return Stored(inserted, revised, late)


async def revised(connection: Connection, series_id: int, after: int, limit: int) -> Revised:
    """See Storage.revised."""
    # Before the bars: of what is committed in between the number is not given.
    number = await connection.fetchval(_NUMBER, series_id)
    rows = await connection.fetch(_REVISED, series_id, after, limit)
    return Revised(number, [Revision(tuple(row[:6]), row[6]) for row in rows])


def _bars(row: Record, newest: bool) -> list[Bar]:
    columns = row[:6]
    if columns[0] is None:
        return []
    bars = list(zip(*columns, strict=True))
    if newest:
        bars.reverse()
    return bars
