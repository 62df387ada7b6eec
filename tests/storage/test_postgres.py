"""A PostgreSQL server as a user has it: rights, passwords, restarts, several nodes, and its schema."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from urllib.parse import quote

import pytest
from postgres_stores import connected, opened
from scripted import INSTRUMENT, MINUTE, START, M, bar
from servers.postgres import PostgresServer

from marketd.domain.bar import Bar
from marketd.domain.coverage import Covered, Reason
from marketd.domain.errors import StorageFailed
from marketd.domain.instrument import Instrument, Series
from marketd.domain.timerange import MAX_MS, MIN_MS, TimeRange
from marketd.storage import Job, Stored, StoredBars
from marketd.storage.base import Fault
from marketd.storage.postgres import PostgresStorage
from marketd.storage.postgres.names import _digest
from marketd.storage.postgres.schema import MIGRATIONS

SERIES = Series(INSTRUMENT, MINUTE)
EVER = TimeRange(MIN_MS, MAX_MS)
TABLES = {
    *("bar", "coverage", "fresh", "instrument", "job", "marketd_schema", "revision", "rollup"),
    *("series", "tick", "tick_coverage"),
}

Url = Callable[..., str]


async def put(storage: PostgresStorage, minute: int) -> None:
    covered = [Covered(START + minute * M, START + (minute + 1) * M, Reason.DATA)]
    await storage.store(SERIES, [bar(minute)], covered, at_ms=START)


async def bars(storage: PostgresStorage) -> list[Bar]:
    return (await storage.read(SERIES, EVER, limit=100_000)).bars


async def refusal_of(url: str) -> str:
    """What opening says that fails, and never who may come in."""
    with pytest.raises(StorageFailed) as refusal:
        await PostgresStorage(url, patience_s=5).open()
    assert "Traceback" not in refusal.value.message
    return refusal.value.message


# What cannot be used


async def test_a_wrong_password_is_refused_by_name_and_not_told(postgres_server: PostgresServer) -> None:
    message = await refusal_of(postgres_server.url(password="hunter2"))  # noqa: S106
    assert "does not let postgres in" in message
    assert "the password in [storage] url" in message
    assert "hunter2" not in message


async def test_an_unknown_database_is_refused_with_how_to_make_it(
    postgres_server: PostgresServer,
) -> None:
    message = await refusal_of(postgres_server.url("nowhere"))
    assert 'CREATE DATABASE "nowhere"' in message
    assert quote(postgres_server.password, safe="") not in message


async def test_a_server_that_is_not_there_is_said_to_be_so(postgres_server: PostgresServer) -> None:
    nobody = postgres_server.url().replace(str(postgres_server.port), "1")
    message = await refusal_of(nobody)
    assert "Nothing answers at 127.0.0.1:1. Start PostgreSQL there" in message


async def test_an_option_that_is_none_is_said_to_be_so(url: str) -> None:
    assert "has an option that is none" in await refusal_of(f"{url}?sslmode=perhaps")


async def test_a_user_without_rights_is_told_which(
    postgres_server: PostgresServer, name: str, url: str
) -> None:
    reader = f"reader_{name}"
    async with connected(url) as connection:
        await connection.execute(f"CREATE ROLE {reader} LOGIN PASSWORD 'secret'")
    message = await refusal_of(postgres_server.url(name, user=reader, password="secret"))  # noqa: S106
    assert "permission denied for schema public" in message
    assert "GRANT CREATE" in message


async def test_a_schema_that_is_not_there_is_said_to_be_so(url: str) -> None:
    assert "no schema has been selected" in await refusal_of(f"{url}?search_path=nowhere")


# The schema


async def tables_of(url: str) -> set[str]:
    async with connected(url) as connection:
        rows = await connection.fetch("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    return {row[0] for row in rows}


async def test_of_two_that_start_at_once_one_migrates_and_the_other_waits(url: str) -> None:
    waiting = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND NOT granted"
    async with connected(url) as holder, connected(url) as watcher:
        # Whatever lock the first takes: it is one, held by somebody else, that both wait for.
        await holder.execute("BEGIN; SELECT pg_advisory_xact_lock(x'6D61726B657464'::bigint)")
        nodes = [PostgresStorage(url), PostgresStorage(url)]
        opening = [asyncio.create_task(node.open()) for node in nodes]
        async with asyncio.timeout(30):
            while await watcher.fetchval(waiting) < 2:
                assert not any(task.done() for task in opening)
        assert "bar" not in await tables_of(url)
        await holder.execute("COMMIT")
        await asyncio.gather(*opening)
        assert await watcher.fetch("SELECT version FROM marketd_schema") == [(len(MIGRATIONS),)]
    await asyncio.gather(*(put(node, minute) for minute, node in enumerate(nodes)))
    assert await bars(nodes[0]) == await bars(nodes[1]) == [bar(0), bar(1)]
    for node in nodes:
        await node.close()


async def test_an_empty_database_gets_the_schema_and_keeps_it(url: str) -> None:
    for _ in range(2):
        async with opened(url) as storage:
            await put(storage, 0)
            assert await bars(storage) == [bar(0)]
        assert await tables_of(url) == TABLES


@pytest.mark.parametrize("version", range(1, len(MIGRATIONS)))
async def test_what_an_earlier_schema_had_is_kept_and_added_to(url: str, version: int) -> None:
    proof = Covered(START, START + M, Reason.DATA)
    job = Job("1", "backfill", "done", "{}", 1, 1)
    async with connected(url) as connection:
        await connection.execute("CREATE TABLE marketd_schema (version INTEGER NOT NULL)")
        await connection.execute("INSERT INTO marketd_schema VALUES ($1)", version)
        for script in MIGRATIONS[:version]:
            await connection.execute(script)
        await connection.execute(
            "INSERT INTO series (digest, market, provider, symbol, timeframe, variant)"
            " VALUES ($1, 'crypto', 'test', 'BTC/USD', '1m', '')",
            _digest(SERIES),
        )
        await connection.execute("INSERT INTO bar VALUES (1, $1, $2, $3, $4, $5, $6)", *bar(0))
        await connection.execute("INSERT INTO coverage VALUES (1, $1, $2, $3)", *proof)
        await connection.execute("INSERT INTO job VALUES ($1, $2, $3, $4, $5, $6)", *job[:6])
    async with opened(url) as storage:
        assert await storage.read(SERIES, EVER, limit=9) == StoredBars([bar(0)], [proof])
        assert await storage.jobs("backfill") == [job]
        assert await storage.store(SERIES, [bar(0), bar(1)], [], at_ms=START) == Stored(1, [])
    assert await tables_of(url) == TABLES


async def test_a_migration_that_fails_changes_nothing(url: str) -> None:
    async with connected(url) as connection:
        await connection.execute("CREATE TABLE coverage (of_another_program TEXT)")
    assert "already exists" in await refusal_of(url)
    assert await tables_of(url) == {"coverage"}


async def test_a_database_of_a_newer_marketd_is_refused_untouched(url: str) -> None:
    async with opened(url):
        pass
    async with connected(url) as connection:
        await connection.execute("UPDATE marketd_schema SET version = 999")
    message = await refusal_of(url)
    assert "schema 999" in message
    assert "Upgrade marketd" in message


async def test_a_plain_server_says_what_it_does_without(url: str) -> None:
    async with opened(url) as storage:
        (lack,) = storage.lacks
    assert "no TimescaleDB" in lack


@pytest.mark.parametrize(("told", "kept"), [("off", "on"), ("local", "local"), ("remote_apply",) * 2])
async def test_a_commit_is_on_the_disk_before_it_is_acknowledged_however_the_server_is_set(
    url: str, told: str, kept: str
) -> None:
    async with (
        opened(f"{url}?synchronous_commit={told}") as storage,
        storage._opened().one() as connection,
    ):
        assert await connection.fetchval("SHOW synchronous_commit") == kept


# Several nodes


async def test_nodes_that_write_the_same_series_at_once_do_not_wait_for_each_other_forever(
    url: str,
) -> None:
    many = [Series(INSTRUMENT, MINUTE, f"{number}") for number in range(8)]
    async with opened(url) as one, opened(url) as other:
        for minute in range(5):
            forward = [one.store(series, [bar(minute)], [], at_ms=START) for series in many]
            backward = [other.store(series, [bar(minute)], [], at_ms=START) for series in many[::-1]]
            stored = await asyncio.wait_for(asyncio.gather(*forward, *backward), 20)
            assert sum(each.inserted for each in stored) == len(many)


async def test_a_node_that_stops_in_the_middle_of_a_write_holds_up_the_next_leader_for_3_s(
    url: str,
) -> None:
    async with opened(url) as stopped, opened(url) as other:
        fence = await stopped.lead(SERIES)
        # The server ends its connection: it may hear of that before it goes on, or only then.
        with suppress(StorageFailed):
            async with stopped._work("written") as connection:
                await connection.execute("BEGIN; SELECT * FROM series FOR NO KEY UPDATE")
                new_fence = await asyncio.wait_for(other.lead(SERIES), 6)
        assert new_fence > fence


# A server that goes away


async def test_a_server_that_is_away_fails_at_once_and_is_used_again_when_it_is_back(
    postgres_server: PostgresServer, url: str
) -> None:
    async with opened(url) as storage:
        await put(storage, 0)
        assert storage.fault == ""
        await asyncio.to_thread(postgres_server.stop)
        try:
            begun = time.monotonic()
            for _ in range(3):
                with pytest.raises(StorageFailed, match="cannot be read"):
                    await bars(storage)
                assert "cannot be read" in storage.fault
                with pytest.raises(StorageFailed, match="cannot be written"):
                    await put(storage, 1)
            with pytest.raises(StorageFailed):
                await storage.probe()
            assert time.monotonic() - begun < 5
            assert "cannot be written" in storage.fault
        finally:
            await asyncio.to_thread(postgres_server.start)
        await storage.probe()
        assert storage.fault == ""
        assert await bars(storage) == [bar(0)]
        await put(storage, 1)
        assert await bars(storage) == [bar(0), bar(1)]


@pytest.mark.parametrize(
    ("state", "fault"),
    [("53100", Fault.FULL), ("58030", Fault.IO), ("25006", Fault.READ_ONLY), ("57P03", Fault.AWAY)],
)
async def test_while_the_server_takes_nothing_what_is_stored_is_read_and_writing_resumes(
    url: str, state: str, fault: Fault
) -> None:
    async with opened(url) as storage, connected(url) as server:
        began: list[Fault] = []
        storage.watch(began.append)
        await put(storage, 0)
        # As the server says it of itself.
        await server.execute(
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS"
            f" $$ BEGIN RAISE EXCEPTION USING ERRCODE = '{state}', MESSAGE = 'it takes nothing'; END $$"
        )
        for table in ("bar", "marketd_schema"):
            await server.execute(
                f"CREATE TRIGGER refuse BEFORE INSERT OR UPDATE ON {table} EXECUTE FUNCTION refuse()"
            )
        refused = await asyncio.gather(*(put(storage, n) for n in range(1, 9)), return_exceptions=True)
        assert all(isinstance(one, StorageFailed) for one in refused)
        with pytest.raises(StorageFailed):
            await storage.probe()
        assert storage.fault == "The database cannot be written: it takes nothing."
        assert began == [fault]
        assert await bars(storage) == [bar(0)]
        await server.execute("DROP FUNCTION refuse CASCADE")
        await storage.probe()
        assert storage.fault == ""
        await put(storage, 1)
        assert await bars(storage) == [bar(0), bar(1)]


async def test_a_server_that_does_not_answer_keeps_nobody_waiting(url: str) -> None:
    async with opened(url, patience_s=0.2) as storage, connected(url) as other:
        await put(storage, 0)
        await other.execute("BEGIN; LOCK TABLE bar IN ACCESS EXCLUSIVE MODE")
        async with asyncio.timeout(30):
            with pytest.raises(StorageFailed, match="did not answer in time"):
                await bars(storage)
            with pytest.raises(StorageFailed, match="did not answer in time"):
                await put(storage, 1)
        await other.execute("ROLLBACK")
        await put(storage, 1)
        assert await bars(storage) == [bar(0), bar(1)]


async def test_what_was_acknowledged_is_there_after_the_server_crashed_and_nothing_by_half(
    postgres_server: PostgresServer, url: str
) -> None:
    acknowledged: list[tuple[int, int]] = []
    enough = asyncio.Event()

    async def write(storage: PostgresStorage, writer: int) -> None:
        for number in range(100_000):
            first = (writer * 1_000_000 + number) * 10
            page = [bar(minute) for minute in range(first, first + 7)]
            covered = [Covered(page[0][0], page[-1][0] + M, Reason.DATA)]
            try:
                await storage.store(SERIES, page, covered, at_ms=START)
            except StorageFailed:
                return
            acknowledged.append((writer, first))
            if len(acknowledged) == 40:
                enough.set()

    async with opened(url) as storage:
        writing = asyncio.gather(*(write(storage, writer) for writer in range(4)))
        await asyncio.wait_for(enough.wait(), 20)
        try:
            await asyncio.to_thread(postgres_server.crash)
            await writing
        finally:
            await asyncio.to_thread(postgres_server.start)
        stored, coverage = await storage.read(SERIES, EVER, limit=1_000_000)
    first_minutes = {(one.start_ms - START) // M for one in coverage}
    assert {first for _, first in acknowledged} <= first_minutes
    # Each writer may have been stopped between a commit and its word.
    assert len(first_minutes) - len(acknowledged) <= 4
    assert stored == [
        bar(minute) for first in sorted(first_minutes) for minute in range(first, first + 7)
    ]


# Values that a table has no place for


async def test_a_name_that_the_database_has_no_place_for_is_refused(url: str) -> None:
    async with opened(url) as storage:
        for symbol in ("a\0b", "\ud800"):
            series = Series(Instrument("crypto", "test", symbol), MINUTE)
            assert await storage.read(series, EVER, limit=10) == StoredBars([], [])
            with pytest.raises(StorageFailed, match="no place for such a value"):
                await storage.store(series, [bar(0)], [], at_ms=START)
        assert storage.fault == ""


async def test_names_too_long_for_an_index_are_told_apart(url: str) -> None:
    async with opened(url) as storage:
        incompressible = "".join(chr(0x4E00 + (n * n * 7919) % 20_000) for n in range(10_000))
        for minute, end in enumerate("ab"):
            series = Series(Instrument("crypto", "test", incompressible + end), MINUTE)
            await storage.store(series, [bar(minute)], [], at_ms=START)
            assert (await storage.read(series, EVER, limit=10)).bars == [bar(minute)]


async def test_a_read_of_many_pieces_is_whole_from_either_end(url: str) -> None:
    page = [bar(minute) for minute in range(12_345)]
    async with opened(url) as storage:
        assert (await storage.store(SERIES, page, [], at_ms=START)).inserted == len(page)
        assert await bars(storage) == page
        for limit in (4_999, 5_000, 5_001, 10_000, 12_344):
            first = await storage.read(SERIES, EVER, limit=limit)
            last = await storage.read(SERIES, EVER, limit=limit, newest=True)
            assert (first.bars, last.bars) == (page[:limit], page[-limit:])
