"""What TimescaleDB does with the store: hypertables, compression, continuous aggregates."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count
from typing import Any

import asyncpg
import pytest
from scripted import INSTRUMENT, MINUTE, START, bar

from marketd.domain.bar import Bar
from marketd.domain.instrument import Series
from marketd.domain.resample import resample
from marketd.domain.timeframe import Timeframe
from marketd.domain.timerange import MAX_MS, MIN_MS, TimeRange
from marketd.storage.postgres import PostgresStorage

SERIES = Series(INSTRUMENT, MINUTE)
EVER = TimeRange(MIN_MS, MAX_MS)
HOUR, DAY = Timeframe.parse("1h"), Timeframe.parse("1d")
NUMBERS = count()
THREE_DAYS = [bar(minute, volume=minute / 8) for minute in range(3 * 1440 + 77)]


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    """The one connection that there is: no store may be open."""
    connection = await asyncpg.connect(url)
    try:
        yield connection
    finally:
        await connection.close()


@asynccontextmanager
async def opened(url: str) -> AsyncIterator[PostgresStorage]:
    storage = PostgresStorage(url, connections=1)
    await storage.open()
    try:
        yield storage
    finally:
        await storage.close()


@pytest.fixture
async def url(timescale_url: str) -> str:
    """Where a new, empty schema is."""
    name = f"timescale_{next(NUMBERS)}"
    async with connected(timescale_url) as connection:
        await connection.execute(f"CREATE SCHEMA {name}")
    return f"{timescale_url}&search_path={name}"


async def ask(url: str, question: str) -> list[Any]:
    async with connected(url) as connection:
        return [tuple(row) for row in await connection.fetch(question)]


async def aggregate(storage: PostgresStorage, timeframe: Timeframe, **options: Any) -> list[Bar]:
    return await storage.aggregate(SERIES, timeframe, EVER, **{"limit": 10_000, **options})


async def test_it_lacks_nothing_and_looks_after_its_own_data(url: str) -> None:
    async with opened(url) as storage:
        assert list(storage.lacks) == []
    assert await ask(
        url,
        "SELECT hypertable_name::text, compression_enabled FROM timescaledb_information.hypertables"
        " WHERE hypertable_schema = current_schema() ORDER BY 1",
    ) == [("bar", True), ("tick", True)]
    assert await ask(
        url,
        "SELECT view_name::text, materialized_only FROM timescaledb_information.continuous_aggregates"
        " WHERE view_schema = current_schema() ORDER BY 1",
    ) == [("bar_1d", False), ("bar_1h", False)]
    policies = await ask(url, "SELECT proc_name::text FROM timescaledb_information.jobs ORDER BY 1")
    assert {name for (name,) in policies} >= {
        "policy_compression",
        "policy_refresh_continuous_aggregate",
    }
    # Opening again makes nothing twice.
    async with opened(url):
        pass
    assert (
        await ask(url, "SELECT proc_name::text FROM timescaledb_information.jobs ORDER BY 1") == policies
    )


async def test_compressed_bars_are_read_revised_and_added_to_like_any(url: str) -> None:
    async with opened(url) as storage:
        await storage.store(SERIES, THREE_DAYS[::2], [], at_ms=START)
    assert await ask(url, "SELECT public.compress_chunk(chunk) FROM public.show_chunks('bar') AS chunk")
    async with opened(url) as storage:
        assert (await storage.read(SERIES, EVER, limit=10_000)).bars == THREE_DAYS[::2]
        changed = bar(0, close=7.0)
        stored = await storage.store(SERIES, [changed, *THREE_DAYS[1:]], [], at_ms=START)
        assert stored.inserted == len(THREE_DAYS) // 2
        assert [one.rev for one in stored.revised] == [1]
        assert (await storage.read(SERIES, EVER, limit=10_000)).bars == [changed, *THREE_DAYS[1:]]


async def test_a_refreshed_view_is_what_is_read_and_gives_what_resampling_gives(url: str) -> None:
    async with opened(url) as storage:
        await storage.store(SERIES, THREE_DAYS, [], at_ms=START)
        # The newest of each goes on, and is not among them.
        assert await storage.refresh() == 3 * 24 + 1 + 3
        assert await storage.refresh() == 0
    # The view is spoiled behind the store's back: whoever reads it says so.
    (table,) = await ask(
        url,
        "SELECT format('%I.%I', materialization_hypertable_schema, materialization_hypertable_name)"
        " FROM timescaledb_information.continuous_aggregates"
        " WHERE view_schema = current_schema() AND view_name = 'bar_1h'",
    )
    await ask(url, f"UPDATE {table[0]} SET high = 12345 WHERE t = {START}")  # noqa: S608
    async with opened(url) as storage:
        hours = await aggregate(storage, HOUR)
        assert hours[0][2] == 12345
        assert hours[1:] == resample(THREE_DAYS, HOUR)[1:]
        for timeframe in (DAY, Timeframe.parse("1w"), Timeframe.parse("2h")):
            expected = resample(THREE_DAYS, timeframe)
            assert (await aggregate(storage, timeframe))[1:] == expected[1:]
        # A change anywhere in the hour makes it one that is computed.
        await storage.store(SERIES, [bar(1, close=1.0)], [], at_ms=START)
        now = [THREE_DAYS[0], bar(1, close=1.0), *THREE_DAYS[2:]]
        assert await aggregate(storage, HOUR) == resample(now, HOUR)


@pytest.mark.parametrize("odd", [math.nan, None, math.inf, -math.inf, 1.7e308])
async def test_values_that_sums_and_extremes_treat_differently_come_out_as_resampled(
    url: str, odd: float | None
) -> None:
    bars: list[Bar] = list(THREE_DAYS)
    for place, minute in enumerate((0, 61, 122, 183, 244, 245)):
        t, *values = bars[minute]
        values[min(place, 4)] = odd
        bars[minute] = (t, *values)  # type: ignore[assignment]
    async with opened(url) as storage:
        await storage.store(SERIES, bars, [], at_ms=START)
        assert await storage.refresh() > 0
        for timeframe in (HOUR, DAY, Timeframe.parse("4h")):
            assert repr(await aggregate(storage, timeframe)) == repr(resample(bars, timeframe))


async def test_volumes_that_add_up_in_another_order_differ_in_their_last_bits_at_most(url: str) -> None:
    bars = [bar(minute, volume=0.1 * (minute % 97)) for minute in range(2 * 1440 + 1)]
    async with opened(url) as storage:
        await storage.store(SERIES, bars, [], at_ms=START)
        await storage.refresh()
        for timeframe in (HOUR, DAY):
            found, exact = await aggregate(storage, timeframe), resample(bars, timeframe)
            assert [one[:5] for one in found] == [one[:5] for one in exact]
            volumes = [one[5] for one in exact]
            assert [one[5] for one in found] == pytest.approx(volumes, rel=1e-12)


async def test_a_write_during_a_refresh_is_not_taken_for_refreshed(url: str) -> None:
    async with opened(url) as storage:
        await storage.store(SERIES, THREE_DAYS, [], at_ms=START)
        refreshing = asyncio.create_task(storage.refresh())
        now = list(THREE_DAYS)
        minute = 0
        while not refreshing.done():
            now[minute] = bar(minute, close=float(minute))
            await storage.store(SERIES, [now[minute]], [], at_ms=START)
            minute += 180
            assert minute < len(now)
        await refreshing
        assert minute > 180
        assert await aggregate(storage, HOUR) == resample(now, HOUR)


async def test_a_database_that_was_plain_becomes_a_hypertable_with_all_it_has(url: str) -> None:
    async with opened(url) as storage:
        await storage.store(SERIES, THREE_DAYS, [], at_ms=START)
        assert await storage.refresh() > 0
    # As it is without the extension: plain tables, and no views.
    async with connected(url) as connection:
        await connection.execute("DROP MATERIALIZED VIEW bar_1d")
        await connection.execute("DROP MATERIALIZED VIEW bar_1h")
        await connection.execute("CREATE TABLE plain (LIKE bar INCLUDING ALL)")
        await connection.execute("INSERT INTO plain SELECT * FROM bar")
        await connection.execute("DROP TABLE bar")
        await connection.execute("ALTER TABLE plain RENAME TO bar")
    async with opened(url) as storage:
        assert (await storage.read(SERIES, EVER, limit=10_000)).bars == THREE_DAYS
        # What was fresh of the views that were is not so of the new ones.
        assert await aggregate(storage, HOUR) == resample(THREE_DAYS, HOUR)
        assert await storage.refresh() > 0
        assert await aggregate(storage, HOUR) == resample(THREE_DAYS, HOUR)


# This engine reads no configuration, and a licence cannot be changed in a session. So what the store
# asks of the server is answered by names of the schema that come before the server's own.
APACHE = """
    CREATE FUNCTION {schema}.current_setting(text, boolean) RETURNS text LANGUAGE sql
        AS $$ SELECT 'apache' WHERE $1 = 'timescaledb.license' $$
"""
PLAIN = "CREATE VIEW {schema}.pg_extension AS SELECT * FROM pg_catalog.pg_extension WHERE false"
WHAT_THERE_IS = """
    SELECT (SELECT count(*) FROM timescaledb_information.hypertables
            WHERE hypertable_schema = schemas.name),
        (SELECT count(*) FROM timescaledb_information.hypertables
            WHERE hypertable_schema = schemas.name AND compression_enabled),
        (SELECT count(*) FROM timescaledb_information.jobs WHERE hypertable_schema = schemas.name),
        (SELECT count(*) FROM timescaledb_information.continuous_aggregates
            WHERE view_schema = schemas.name)
    FROM (SELECT '{schema}') AS schemas (name)
"""


async def test_a_plain_database_becomes_one_under_the_apache_licence_and_then_all_of_timescaledb(
    url: str, timescale_url: str
) -> None:
    schema = url.rpartition("=")[2]
    seen_first = f"{url},pg_catalog"
    bars = list(THREE_DAYS)

    async def found() -> list[Any]:
        return await ask(timescale_url, WHAT_THERE_IS.format(schema=schema))

    async def check(storage: PostgresStorage, minute: int) -> None:
        """Everything is there, before and after a change of some bar."""
        for again in range(2):
            assert (await storage.read(SERIES, EVER, limit=10_000)).bars == bars
            for timeframe in (HOUR, DAY, Timeframe.parse("1w")):
                assert await aggregate(storage, timeframe) == resample(bars, timeframe)
            bars[minute] = bar(minute, close=float(minute + again), volume=1.0)
            assert (await storage.store(SERIES, [bars[minute]], [], at_ms=START)).revised
        assert await storage.refresh() > 0

    await ask(timescale_url, PLAIN.format(schema=schema))
    async with opened(seen_first) as storage:
        assert "is not in this database (CREATE EXTENSION)" in storage.lacks[0]
        await storage.store(SERIES, bars, [], at_ms=START)
        await storage.store_ticks(INSTRUMENT, [(START, 1.0, 1.0, "", "")])
        await check(storage, 5)
    assert await found() == [(0, 0, 0, 0)]

    await ask(timescale_url, f"DROP VIEW {schema}.pg_extension")
    await ask(timescale_url, APACHE.format(schema=schema))
    async with opened(seen_first) as storage:
        assert "under its Apache licence alone" in storage.lacks[0]
        await check(storage, 500)
    # Hypertables are free; nothing that is not was asked for.
    assert await found() == [(2, 0, 0, 0)]

    await ask(timescale_url, f"DROP FUNCTION {schema}.current_setting")
    async with opened(url) as storage:
        assert list(storage.lacks) == []
        await check(storage, 1_000)
        assert len((await storage.read_ticks(INSTRUMENT, EVER, limit=9)).ticks) == 1
    hypertables, compressed, jobs, views = (await found())[0]
    assert (hypertables, compressed, views) == (2, 2, 2)
    assert jobs >= 2
