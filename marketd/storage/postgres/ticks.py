"""What is said to PostgreSQL of trades: functions over one connection."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from hashlib import blake2b

from marketd.domain.bar import Tick
from marketd.domain.timerange import TimeRange
from marketd.storage.postgres.bars import PIECE
from marketd.storage.postgres.connection import Connection

# `place` counts up as rows are made: the order within a millisecond.
_INSERT = """
    WITH written AS (
        INSERT INTO tick (instrument, t, price, size, side, id, digest)
        SELECT $1, t, price, size, side, id, digest FROM unnest(
            $2::bigint[], $3::float8[], $4::float8[], $5::text[], $6::text[], $7::bytea[]
        ) WITH ORDINALITY AS given (t, price, size, side, id, digest, number)
        ORDER BY number
        ON CONFLICT DO NOTHING
        RETURNING 1
    )
    SELECT count(*) FROM written
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


async def store(connection: Connection, instrument_id: int, ticks: Sequence[Tick]) -> int:
    """See Storage.store_ticks; inside a transaction of the caller's."""
    digests = list(_digests(ticks))
    new = 0
    for first in range(0, len(ticks), PIECE):
        piece = slice(first, first + PIECE)
        new += await connection.fetchval(
            _INSERT, instrument_id, *zip(*ticks[piece], strict=True), digests[piece]
        )
    return new


async def read(
    connection: Connection, instrument_id: int, span: TimeRange, *, limit: int, newest: bool
) -> list[Tick]:
    """See Storage.read_ticks."""
    rows = await connection.fetch(_LAST if newest else _FIRST, instrument_id, *span, limit)
    ticks: list[Tick] = [tuple(row) for row in rows]
    if newest:
        ticks.reverse()
    return ticks


async def drop(connection: Connection, instrument_id: int, before_ms: int) -> int:
    """Deletes some trades before a time; gives their number, zero if none are left."""
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
