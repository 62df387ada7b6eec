"""How a PostgreSQL database is: what there is in it, and what must hold between its tables.

Whether the pages on the disk are sound is for the server's own tool, pg_amcheck.
"""

from __future__ import annotations

from collections.abc import Mapping

from marketd.domain.coverage import Reason
from marketd.domain.timeframe import DAY_MS
from marketd.domain.timerange import MAX_MS, MIN_MS
from marketd.storage.postgres.connection import FAILURES, Connection, Connections, reason
from marketd.storage.postgres.schema import MIGRATIONS
from marketd.storage.records import Checkup
from marketd.storage.soundness import SERIES, TRADES, Content, Counts, doubts, schema_facts

_PATIENCE_S = 10.0
_SERVER = """
    SELECT current_setting('server_version'), pg_size_pretty(pg_database_size(current_database())),
        (SELECT extversion FROM pg_extension WHERE extname = 'timescaledb'),
        current_setting('timescaledb.license', true)
"""
_SETTINGS = "SELECT name, setting FROM pg_settings WHERE name = ANY($1)"
# What is said of a server that is set otherwise than `on`.
_UNSAFE = {
    "fsync": "fsync is off: a power cut may damage the database",
    "full_page_writes": "full_page_writes is off: a power cut may damage the database",
    "data_checksums": "no checksums of pages",
}
_HAS_SCHEMA = "SELECT to_regclass('marketd_schema') IS NOT NULL"
_VERSION = "SELECT max(version) FROM marketd_schema"
_INVALID = """
    SELECT index.relname, owner.relname FROM pg_index
    JOIN pg_class AS index ON index.oid = indexrelid
    JOIN pg_class AS owner ON owner.oid = indrelid
    JOIN pg_namespace ON pg_namespace.oid = owner.relnamespace
    WHERE nspname = current_schema() AND NOT (indisvalid AND indisready)
    ORDER BY 1
"""
# Of months and years, whose buckets differ in length, the bars begin at midnight at least.
_BARS = """
    SELECT count(*), coalesce(min(t) < $4 OR max(t) >= $5, false),
        count(*) FILTER (WHERE (t - $2) % $3 <> 0)
    FROM bar WHERE series = $1
"""
_COVERED = """
    SELECT count(*) FILTER (WHERE reason = ANY($2)), count(*) FILTER (WHERE reason = $3)
    FROM coverage JOIN bar ON bar.series = coverage.series AND t >= range_start AND t < range_end
    WHERE coverage.series = $1
"""
_OWNERS: Mapping[str, str] = {
    "bar": "series",
    "revision": "series",
    "coverage": "series",
    "rollup": "series",
    "fresh": "series",
    "tick": "instrument",
    "tick_coverage": "instrument",
}


async def check(connections: Connections) -> Checkup:
    """What there is, and what is wrong with it; all of one instant. It changes nothing."""
    facts: list[str] = []
    problems: list[str] = []
    try:
        async with (
            connections.one() as connection,
            connection.transaction(isolation="repeatable_read", readonly=True),
        ):
            facts += await _server(connection)
            version = 0
            if await connection.fetchval(_HAS_SCHEMA):
                version = await connection.fetchval(_VERSION) or 0
            facts += schema_facts(version, len(MIGRATIONS), problems)
            if version == len(MIGRATIONS):
                facts += await _content(connection, problems)
    except FAILURES as error:
        problems.append(f"It cannot be read: {reason(error)}.")
    return Checkup(facts, problems)


async def check_at(url: str) -> Checkup:
    """The same of the database at `url`, whoever has it open; it is not brought up to date."""
    connections = await Connections.open(url, most=1, patience_s=_PATIENCE_S)
    try:
        return await check(connections)
    finally:
        connections.terminate()


async def _server(connection: Connection) -> list[str]:
    """What the server is, and how it is set."""
    ((version, size, timescale, licence),) = await connection.fetch(_SERVER)
    settings = {row[0]: row[1] for row in await connection.fetch(_SETTINGS, list(_UNSAFE))}
    with_licence = " under its Apache licence alone" if licence != "timescale" else ""
    return [
        f"PostgreSQL {version.split()[0]}",
        f"TimescaleDB {timescale}{with_licence}" if timescale else "no TimescaleDB",
        size,
        *(told for name, told in _UNSAFE.items() if settings.get(name) != "on"),
    ]


async def _content(connection: Connection, problems: list[str]) -> list[str]:
    """What is in the tables; adds what cannot be so to the problems."""
    content = Content(problems)
    for number, name, written in await connection.fetch(SERIES):
        called = f"{name}@{written}"
        timeframe = content.timeframe(called, written)
        if timeframe is not None:
            step_ms = DAY_MS if timeframe.is_calendar else timeframe.nominal_ms
            asked = (number, timeframe.floor(step_ms), step_ms, MIN_MS, MAX_MS)
            (bars,) = await connection.fetch(_BARS, *asked, timeout=None)
            covered = (number, [Reason.NO_TRADES, Reason.CLOSED], Reason.DATA)
            (denied_proven,) = await connection.fetch(_COVERED, *covered, timeout=None)
            content.count(called, timeframe, Counts(*bars, *denied_proven))
    for statement, told in doubts(_OWNERS):
        count = await connection.fetchval(statement, timeout=None)
        if count:
            problems.append(told.format(count))
    for index, table in await connection.fetch(_INVALID):
        problems.append(f"The index {index} of {table} is not usable: REINDEX INDEX {index}")
    return list(content.facts(await connection.fetchval(TRADES, timeout=None)))
