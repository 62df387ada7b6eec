"""What TimescaleDB adds: hypertables, compression, and continuous aggregates in place of rollups."""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import NamedTuple

from marketd.domain.bar import Bar
from marketd.domain.timeframe import Timeframe
from marketd.domain.timerange import MIN_MS, TimeRange, merge
from marketd.storage.postgres import freshness
from marketd.storage.postgres.aggregates import Asked, Rollups, lock_row
from marketd.storage.postgres.connection import Connection, Connections
from marketd.storage.rollups import touched_buckets

# The longest that bringing the views up to date may take.
_REFRESH_S = 600.0
_WITHOUT = "no compression of old bars, and hours and days are kept by marketd itself."

_EXTENSION = """
    SELECT quote_ident(nspname), current_setting('timescaledb.license', true)
    FROM pg_extension JOIN pg_namespace ON pg_namespace.oid = extnamespace
    WHERE extname = 'timescaledb'
"""
_IS_OFFERED = "SELECT EXISTS (SELECT FROM pg_available_extensions WHERE name = 'timescaledb')"
# {ts} is the schema of the extension. Chunks are of four weeks of bars and of a day of ticks, and
# compressed once they are twice as old; the time of these tables is a number, of milliseconds.
_HYPERTABLES = """
    SELECT {ts}.create_hypertable('bar', {ts}.by_range('t', 2419200000::bigint),
        if_not_exists => true, migrate_data => true);
    SELECT {ts}.create_hypertable('tick', {ts}.by_range('t', 86400000::bigint),
        if_not_exists => true, migrate_data => true);
"""
_COMPRESSION = """
    CREATE OR REPLACE FUNCTION marketd_now_ms() RETURNS bigint LANGUAGE sql STABLE
        AS 'SELECT (extract(epoch FROM now()) * 1000)::bigint';
    SELECT {ts}.set_integer_now_func('bar', 'marketd_now_ms', replace_if_exists => true);
    SELECT {ts}.set_integer_now_func('tick', 'marketd_now_ms', replace_if_exists => true);
    ALTER TABLE bar SET (timescaledb.compress,
        timescaledb.compress_segmentby = 'series', timescaledb.compress_orderby = 't');
    ALTER TABLE tick SET (timescaledb.compress,
        timescaledb.compress_segmentby = 'instrument', timescaledb.compress_orderby = 't, place');
    SELECT {ts}.add_compression_policy('bar', 4838400000::bigint, if_not_exists => true);
    SELECT {ts}.add_compression_policy('tick', 172800000::bigint, if_not_exists => true);
"""
# None is passed over as by the resampler. Where a NaN is, or a volume so large that a sum might
# overflow, `odd` says so: such a bucket is computed from its bars instead.
_VIEWS = """
    CREATE MATERIALIZED VIEW bar_1h
        WITH (timescaledb.continuous, timescaledb.materialized_only = false) AS
    SELECT series, {ts}.time_bucket(3600000::bigint, t) AS t,
        {ts}.first(open, t) FILTER (WHERE open IS NOT NULL) AS open, max(high) AS high,
        min(low) AS low, {ts}.last(close, t) FILTER (WHERE close IS NOT NULL) AS close,
        sum(volume) FILTER (WHERE abs(volume) < 1e290) AS volume,
        bool_or('NaN' IN (open, high, low, close, volume) OR abs(volume) >= 1e290) AS odd
    FROM bar GROUP BY 1, 2 WITH NO DATA;
    CREATE MATERIALIZED VIEW bar_1d
        WITH (timescaledb.continuous, timescaledb.materialized_only = false) AS
    SELECT series, {ts}.time_bucket(86400000::bigint, t) AS t,
        {ts}.first(open, t) FILTER (WHERE open IS NOT NULL) AS open, max(high) AS high,
        min(low) AS low, {ts}.last(close, t) FILTER (WHERE close IS NOT NULL) AS close,
        sum(volume) AS volume, bool_or(odd) AS odd
    FROM bar_1h GROUP BY 1, 2 WITH NO DATA;
    SELECT {ts}.add_continuous_aggregate_policy('bar_1h', start_offset => NULL,
        end_offset => 3600000::bigint, schedule_interval => INTERVAL '10 minutes');
    SELECT {ts}.add_continuous_aggregate_policy('bar_1d', start_offset => NULL,
        end_offset => 86400000::bigint, schedule_interval => INTERVAL '1 hour');
"""
_NONE_FRESH = "DELETE FROM fresh WHERE kept IN ('bar_1h', 'bar_1d')"
_HAS_VIEWS = "SELECT to_regclass('bar_1d') IS NOT NULL"


_FIRST = {
    "bar_1h": "SELECT * FROM bar_1h WHERE series = $1 AND t >= $2 AND t < $3 ORDER BY t LIMIT $4",
    "bar_1d": "SELECT * FROM bar_1d WHERE series = $1 AND t >= $2 AND t < $3 ORDER BY t LIMIT $4",
}
_LAST = {name: text.replace("ORDER BY t", "ORDER BY t DESC") for name, text in _FIRST.items()}
_COUNT = {name: text.replace("*", "count(*)").partition(" ORDER")[0] for name, text in _FIRST.items()}


# Hours and days alone: a view is of all series, and a year is no more than 366 of its days.
_LEVELS = (Timeframe.parse("1h"), Timeframe.parse("1d"))


class Found(NamedTuple):
    """What a database turned out to have.

    `schema` is that of the extension where there are continuous aggregates, else empty; `lacks` says
    in sentences what is done without.
    """

    schema: str
    lacks: Sequence[str]


async def install(connection: Connection) -> Found:
    """Uses what the server has.

    In a transaction that has brought the tables up to date, so that only one node does it at a time.
    """
    row = await connection.fetchrow(_EXTENSION)
    if row is None:
        if await connection.fetchval(_IS_OFFERED):
            return Found("", [f"TimescaleDB is not in this database (CREATE EXTENSION): {_WITHOUT}"])
        return Found("", [f"The server has no TimescaleDB: {_WITHOUT}"])
    schema, licence = row
    await connection.execute(_HYPERTABLES.format(ts=schema), timeout=None)
    if licence != "timescale":
        return Found("", [f"TimescaleDB is here under its Apache licence alone: {_WITHOUT}"])
    await connection.execute(_COMPRESSION.format(ts=schema), timeout=None)
    if not await connection.fetchval(_HAS_VIEWS):
        await connection.execute(_VIEWS.format(ts=schema), timeout=None)
        await connection.execute(_NONE_FRESH)
    return Found(schema, [])


class Views(Rollups):
    """Hours and days as continuous aggregates, which the database materialises by itself.

    A view is read where it was refreshed since the last change; what is not fresh is computed. Its
    volumes are sums of sums, whose last bits may differ from those of resampling directly.
    """

    def __init__(self, connections: Connections, schema: str) -> None:
        super().__init__(connections)
        self._schema = schema

    async def refresh(self, series: Mapping[int, Timeframe], span: TimeRange) -> int:
        """See Storage.refresh: one refresh of each view for all series."""
        number = secrets.randbits(62)
        claimed: list[tuple[int, str]] = []
        stale: list[TimeRange] = []
        for series_id, base in series.items():
            for level in _levels_of(base):
                pieces = await self._stale(Asked(series_id, base, level), span)
                if pieces:
                    async with self._locked(series_id) as connection:
                        await freshness.claim(connection, series_id, _view(level), pieces, number)
                    claimed.append((series_id, _view(level)))
                    stale += pieces
        if not stale:
            return 0
        hull = TimeRange(min(stale).start_ms, max(piece.end_ms for piece in stale))
        days = touched_buckets(_LEVELS[-1], hull)
        made = False
        try:
            async with self._connections.one() as connection:
                for level in _LEVELS:
                    await connection.execute(
                        f"CALL {self._schema}.refresh_continuous_aggregate"
                        f"('{_view(level)}', {days.start_ms}::bigint, {days.end_ms}::bigint)",
                        timeout=_REFRESH_S,
                    )
            made = True
        finally:
            count = 0
            for series_id, kept in claimed:
                async with self._locked(series_id) as connection:
                    left = await freshness.end_claim(connection, series_id, kept, number)
                    if made:
                        await freshness.freshen(connection, series_id, kept, left)
                        for piece in left:
                            count += await connection.fetchval(_COUNT[kept], series_id, *piece)
        return count

    def _kept(self, asked: Asked) -> str | None:
        for level in reversed(_levels_of(asked.base)):
            if level.tiles(asked.timeframe):
                return _view(level)
        return None

    async def _stale(self, asked: Asked, span: TimeRange) -> list[TimeRange]:
        # The newest bucket goes on: what is kept of it would be stale with the next bar.
        newest = (await self.extent(asked.series_id, asked.timeframe)).end_ms
        closed = TimeRange(MIN_MS, max(MIN_MS, newest - asked.timeframe.nominal_ms))
        return await super()._stale(asked, span.clip(closed))

    async def _ready(self, asked: Asked, span: TimeRange, limit: int, newest: bool) -> list[Bar]:
        kept = self._kept(asked)
        assert kept is not None  # noqa: S101 - or nothing were fresh
        level = Timeframe.parse(kept.removeprefix("bar_"))
        statement = _LAST[kept] if newest else _FIRST[kept]

        async def read(span: TimeRange, limit: int) -> list[Bar]:
            async with self._connections.one() as connection:
                rows = await connection.fetch(statement, asked.series_id, *span, limit)
            odd = merge(TimeRange(row["t"], level.end(row["t"])) for row in rows if row["odd"])
            bars = {row["t"]: tuple(row[1:7]) for row in rows}
            for run in odd:
                most = (run.end_ms - run.start_ms) // level.nominal_ms
                exact = asked._replace(timeframe=level)
                bars |= {bar[0]: bar for bar in await self._computed(exact, run, most, False)}
            return [bars[t_ms] for t_ms in sorted(bars)]

        bucket = level.most_in(asked.timeframe)
        return await self._resample(read, bucket, asked.timeframe, span, limit, newest)

    async def _missing(self, asked: Asked, span: TimeRange, limit: int, newest: bool) -> list[Bar]:
        return await self._computed(asked, span, limit, newest)

    @asynccontextmanager
    async def _locked(self, series_id: int) -> AsyncIterator[Connection]:
        """A transaction during which nobody else writes to the series."""
        async with self._connections.one() as connection, connection.transaction():
            await lock_row(connection, series_id)
            yield connection


def _levels_of(base: Timeframe) -> list[Timeframe]:
    """The timeframes that there are views of, of a series."""
    return [level for level in _LEVELS if level != base and base.tiles(level)]


def _view(level: Timeframe) -> str:
    return f"bar_{level}"
