"""Series and instruments as rows: found by a digest of their name, made when something is stored."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from hashlib import blake2b
from typing import NamedTuple

import asyncpg

from marketd.domain.errors import Superseded
from marketd.domain.instrument import Instrument, Series
from marketd.domain.timeframe import Timeframe
from marketd.storage.postgres.connection import Connection

_FIND = {
    "series": "SELECT id FROM series WHERE digest = $1",
    "instrument": "SELECT id FROM instrument WHERE digest = $1",
}
_MAKE = {
    "series": """
        INSERT INTO series (digest, market, provider, symbol, timeframe, variant)
        VALUES ($1, $2, $3, $4, $5, $6) ON CONFLICT DO NOTHING
    """,
    "instrument": """
        INSERT INTO instrument (digest, market, provider, symbol)
        VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING
    """,
}
# In one order, so that two that lock several never wait for each other.
_LOCK_SERIES = """
    SELECT id, fence FROM series WHERE id = ANY($1::bigint[]) ORDER BY id FOR NO KEY UPDATE
"""
_LOCK_INSTRUMENT = "SELECT id, fence, last_place FROM instrument WHERE id = $1 FOR NO KEY UPDATE"
_ADVANCE_FENCE = {
    "series": "UPDATE series SET fence = fence + 1 WHERE id = $1 RETURNING fence",
    "instrument": "UPDATE instrument SET fence = fence + 1 WHERE id = $1 RETURNING fence",
}
_LOCK_MAKING = "LOCK TABLE series IN SHARE ROW EXCLUSIVE MODE"
_ALL_SERIES = "SELECT market, provider, symbol, timeframe, variant FROM series ORDER BY id"
_ONE_SERIES = "SELECT market, provider, symbol, timeframe, variant FROM series WHERE id = $1"
_ALL_INSTRUMENTS = "SELECT id FROM instrument ORDER BY id"


class Ids:
    """The row number of every series and instrument met so far; none of them ever changes."""

    def __init__(self) -> None:
        self._known: dict[Series | Instrument, int] = {}

    async def find(self, connection: Connection, what: Series | Instrument) -> int | None:
        """The row of `what`; None if nothing of it was ever stored."""
        known = self._known.get(what)
        if known is None:
            known = await connection.fetchval(_FIND[_table(what)], _digest(what))
            if known is not None:
                self._known[what] = known
        return known

    async def ensure(self, connection: Connection, what: Series | Instrument) -> int:
        """The row of `what`, made if need be. Not kept: the caller's transaction may be undone."""
        known = self._known.get(what)
        if known is None:
            await connection.execute(_MAKE[_table(what)], _digest(what), *_parts(what))
            known = await connection.fetchval(_FIND[_table(what)], _digest(what))
            assert known is not None  # noqa: S101 - written in this very transaction
        return known

    def keep(self, ids: Iterable[tuple[Series | Instrument, int]]) -> None:
        """Remembers rows whose making is committed."""
        self._known.update(ids)


class Row(NamedTuple):
    """The row of a series or instrument that is locked: its number, and the fence of its leader."""

    id: int
    fence: int

    def admit(self, fence: int | None) -> None:
        """Raises Superseded if `fence` is an earlier leader's."""
        if fence is not None and fence != self.fence:
            raise Superseded("Another node leads this by now.")


async def lock(connection: Connection, ids: Ids, group: Iterable[Series]) -> dict[Series, Row]:
    """The rows of these series, made if need be, for this transaction alone to write to."""
    rows: dict[Series, int] = {}
    is_making = False
    for series in group:
        if series in rows:
            continue
        known = await ids.find(connection, series)
        if known is None and not is_making:
            # One at a time, since two might make the same ones in opposite orders.
            is_making = True
            await connection.execute(_LOCK_MAKING)
        rows[series] = await ids.ensure(connection, series) if known is None else known
    locked = await connection.fetch(_LOCK_SERIES, list(rows.values()))
    by_id = {row[0]: Row(*row) for row in locked}
    return {series: by_id[series_id] for series, series_id in rows.items()}


async def lock_instrument(connection: Connection, instrument_id: int) -> tuple[Row, int]:
    """The row of an instrument, for this transaction alone to write to, and its last trade's place."""
    ((row_id, fence, last_place),) = await connection.fetch(_LOCK_INSTRUMENT, instrument_id)
    return Row(row_id, fence), last_place


async def advance_fence(connection: Connection, ids: Ids, what: Series | Instrument) -> tuple[int, int]:
    """The row of `what`, made if need be, and its next fence; no transaction has an earlier one then."""
    row_id = await ids.ensure(connection, what)
    fence: int = await connection.fetchval(_ADVANCE_FENCE[_table(what)], row_id)
    return row_id, fence


async def all_series(connection: Connection) -> list[Series]:
    """Every series, in the order in which they were made."""
    return [_series(row) for row in await connection.fetch(_ALL_SERIES)]


async def series_of(connection: asyncpg.Connection[asyncpg.Record], series_id: int) -> Series | None:
    """The series of a row, if it is there."""
    row = await connection.fetchrow(_ONE_SERIES, series_id)
    return None if row is None else _series(row)


async def all_instruments(connection: Connection) -> list[int]:
    """The rows of every instrument."""
    return [row[0] for row in await connection.fetch(_ALL_INSTRUMENTS)]


def _series(row: asyncpg.Record) -> Series:
    return Series(Instrument(*row[:3]), Timeframe.parse(row[3]), row[4])


def _table(what: Series | Instrument) -> str:
    return "series" if isinstance(what, Series) else "instrument"


def _parts(what: Series | Instrument) -> Sequence[str]:
    if isinstance(what, Instrument):
        return (what.market, what.provider, what.symbol)
    return (*_parts(what.instrument), str(what.timeframe), what.variant)


def _digest(what: Series | Instrument) -> bytes:
    return blake2b(json.dumps(_parts(what)).encode(), digest_size=16).digest()
