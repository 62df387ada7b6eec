"""What is said to PostgreSQL of trades and of their times: functions over one connection."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from hashlib import blake2b

from marketd.domain.bar import Tick
from marketd.domain.coverage import Covered
from marketd.domain.timerange import TimeRange
from marketd.storage.postgres import coverage, names
from marketd.storage.postgres.bars import PIECE
from marketd.storage.postgres.connection import Connection
from marketd.storage.records import AddedTicks, NumberedTick, StoredTicks, reach_of_ticks

# `place` counts up as rows are made: the order within a millisecond, and, since an instrument's are made
# under the lock of its row, the number of each of its trades.
_INSERT = """
    WITH written AS (
        INSERT INTO tick (instrument, t, price, size, side, id, digest)
        SELECT $1, t, price, size, side, id, digest FROM unnest(
            $2::bigint[], $3::float8[], $4::float8[], $5::text[], $6::text[], $7::bytea[]
        ) WITH ORDINALITY AS given (t, price, size, side, id, digest, number)
        ORDER BY number
        ON CONFLICT DO NOTHING
        RETURNING t, digest, place
    ), last AS (
        UPDATE instrument SET last_place = newest
        FROM (SELECT max(place) AS newest FROM written) AS found
        WHERE id = $1 AND newest IS NOT NULL
    )
    SELECT array_agg(t), array_agg(digest), max(place) FROM written
"""
_READ = "SELECT t, price, size, side, id FROM tick WHERE instrument = $1 AND t >= $2 AND t < $3"
_FIRST = f"{_READ} ORDER BY t, place LIMIT $4"
_LAST = f"{_READ} ORDER BY t DESC, place DESC LIMIT $4"
_DROP = """
    WITH old AS (
        SELECT t, digest FROM tick WHERE instrument = $1 AND t < $2 ORDER BY t LIMIT $3
    ), gone AS (
        DELETE FROM tick USING old
        WHERE tick.instrument = $1 AND (tick.t, tick.digest) = (old.t, old.digest) AND tick.t < $2
        RETURNING 1
    )
    SELECT count(*) FROM gone
"""
_FORGET = "DELETE FROM tick_coverage WHERE instrument = $1 AND range_start < $2 AND range_end <= $2"
_CUT = "UPDATE tick_coverage SET range_start = $2 WHERE instrument = $1 AND range_start < $2"
_AFTER = """
    SELECT place, t, price, size, side, id FROM tick
    WHERE instrument = $1 AND place > $2 AND place <= $3 ORDER BY place LIMIT $4
"""
_LAST_PLACE = "SELECT last_place FROM instrument WHERE id = $1"


async def store(
    connection: Connection,
    instrument_id: int,
    before: int,
    ticks: Sequence[Tick],
    covered: Sequence[Covered],
) -> AddedTicks:
    """See Storage.store_ticks; inside a transaction of the caller's that has locked the row.

    `before` is the place of the trade that was stored last.
    """
    if covered:
        await coverage.lay_over(connection, instrument_id, covered, table=coverage.TICKS)
    digests = list(_digests(ticks))
    new: list[Tick] = []
    number = before
    for first in range(0, len(ticks), PIECE):
        piece = slice(first, first + PIECE)
        ((times, written, last),) = await connection.fetch(
            _INSERT, instrument_id, *zip(*ticks[piece], strict=True), digests[piece]
        )
        left = set(zip(times or (), written or (), strict=True))
        for tick, digest in zip(ticks[piece], digests[piece], strict=True):
            if (tick[0], digest) in left:
                left.remove((tick[0], digest))
                new.append(tick)
        number = max(number, last or 0)
    return AddedTicks(new, before, number)


async def read(
    connection: Connection, instrument_id: int, span: TimeRange, *, limit: int, newest: bool
) -> StoredTicks:
    """See Storage.read_ticks."""
    async with connection.transaction(isolation="repeatable_read", readonly=True):
        rows = await connection.fetch(_LAST if newest else _FIRST, instrument_id, *span, limit)
        ticks: list[Tick] = [tuple(row) for row in rows]
        if newest:
            ticks.reverse()
        spoken = reach_of_ticks(ticks, span, limit=limit, newest=newest)
        known = await coverage.read(connection, instrument_id, spoken, table=coverage.TICKS)
        number = await connection.fetchval(_LAST_PLACE, instrument_id)
    return StoredTicks(ticks, known, number)


async def after(
    connection: Connection, instrument_id: int, number: int, until: int, limit: int
) -> list[NumberedTick]:
    """See Storage.ticks_after."""
    rows = await connection.fetch(_AFTER, instrument_id, number, until, limit)
    return [NumberedTick(row[0], tuple(row)[1:]) for row in rows]


async def drop(connection: Connection, instrument_id: int, before_ms: int) -> int:
    """Deletes some trades before a time; gives their number, zero if none are left."""
    async with connection.transaction():
        await names.lock_instrument(connection, instrument_id)
        await connection.execute(_FORGET, instrument_id, before_ms)
        await connection.execute(_CUT, instrument_id, before_ms)
        gone: int = await connection.fetchval(_DROP, instrument_id, before_ms, PIECE)
    return gone


def _digests(ticks: Sequence[Tick]) -> Iterator[bytes]:
    """What tells each trade apart from the others of its instrument and millisecond."""
    seen: Counter[Tick] = Counter()
    for tick in ticks:
        if tick[4]:
            name: object = tick[4]
        else:
            name = (*tick[1:4], seen[tick])
            seen[tick] += 1
        yield blake2b(json.dumps(name).encode(), digest_size=16).digest()
