"""The database file: who owns it, how its schema comes to be, and what is said if it cannot be used."""

from __future__ import annotations

import asyncio
import math
import os
import sqlite3
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest
from scripted import INSTRUMENT, MINUTE, START, M, bar

from marketd.domain.bar import Bar
from marketd.domain.coverage import Covered, Reason
from marketd.domain.errors import StorageFailed, StorageLocked
from marketd.domain.instrument import Series
from marketd.domain.timeframe import Timeframe
from marketd.domain.timerange import MAX_MS, MIN_MS, TimeRange
from marketd.storage import StoredBars
from marketd.storage.records import Revision
from marketd.storage.sqlite import SQLiteStorage
from marketd.storage.sqlite.schema import MIGRATIONS, migrate

SERIES = Series(INSTRUMENT, MINUTE)
SPAN = TimeRange(START, START + M)
PROOF = Covered(*SPAN, Reason.DATA)

TABLES = [
    *("block", "coverage", "instrument", "job", "job_by_due", "job_by_kind", "probe"),
    *("revision", "revision_by_number", "rolled", "rollup", "series", "tick", "tick_coverage"),
]

# Opens the database it is given, says so, and keeps it until its input ends.
OWNER = """
import asyncio, sys
from pathlib import Path
from marketd.storage import StoredBars
from marketd.storage.records import (Revision)
from marketd.storage.sqlite import SQLiteStorage

async def own():
    storage = SQLiteStorage(Path(sys.argv[1]))
    await storage.open()
    print("open", flush=True)
    await asyncio.to_thread(sys.stdin.read)
    await storage.close()

asyncio.run(own())
"""


@asynccontextmanager
async def owner_of(path: Path) -> AsyncIterator[Process]:
    """Another process that has the database open."""
    owner = await asyncio.create_subprocess_exec(
        sys.executable, "-c", OWNER, path, stdin=PIPE, stdout=PIPE
    )
    assert owner.stdout is not None
    try:
        assert await owner.stdout.readline() == b"open\n"
        yield owner
    finally:
        await owner.communicate(b"")


@asynccontextmanager
async def opened(path: Path) -> AsyncIterator[SQLiteStorage]:
    storage = SQLiteStorage(path)
    await storage.open()
    try:
        yield storage
    finally:
        await storage.close()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "bars.db"


@pytest.fixture
def forbidden(tmp_path: Path) -> Iterator[Path]:
    """A folder in which this process has no rights; root, whom none stop, is somebody else meanwhile."""
    folder = tmp_path / "forbidden"
    folder.mkdir(mode=0o500)
    was = os.geteuid()
    os.seteuid(was or 65534)
    try:
        yield folder
    finally:
        os.seteuid(was)


def write(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def content_of(path: Path) -> bytes:
    return path.read_bytes()


async def refusal_of(path: Path) -> StorageFailed:
    """What opening fails with; it must."""
    storage = SQLiteStorage(path)
    try:
        with pytest.raises(StorageFailed) as refusal:
            await storage.open()
    finally:
        await storage.close()
    return refusal.value


async def failure_of(path: Path) -> str:
    """What opening says that fails for another reason than an owner, the second time too."""
    refusals = [await refusal_of(path) for _ in range(2)]
    assert [type(refusal) for refusal in refusals] == [StorageFailed] * 2
    return refusals[1].message


async def usable(path: Path) -> bool:
    async with opened(path) as storage:
        await storage.store(SERIES, [bar(0)], [PROOF], at_ms=START)
        return await storage.read(SERIES, SPAN, limit=1) == ([bar(0)], [PROOF])


# One owner


async def test_a_second_process_is_refused_and_told_which_has_the_database(path: Path) -> None:
    async with owner_of(path) as owner:
        refusal = await refusal_of(path)
        assert isinstance(refusal, StorageLocked)
        assert f"(process {owner.pid})" in refusal.message
        assert "[storage] url" in refusal.message
    assert await usable(path)


async def test_the_lock_ends_with_a_process_that_is_killed(path: Path) -> None:
    async with owner_of(path) as owner:
        owner.kill()
        await owner.wait()
        assert await usable(path)


async def test_two_names_of_one_file_are_one_database(path: Path) -> None:
    assert await usable(path)
    link = path.with_name("link.db")
    link.symlink_to(path)
    async with owner_of(path):
        assert isinstance(await refusal_of(link), StorageLocked)
    assert await usable(link)


async def test_a_refused_store_leaves_the_owner_undisturbed(path: Path) -> None:
    storage = SQLiteStorage(path)
    await storage.open()
    for _ in range(3):
        assert f"(process {os.getpid()})" in (await refusal_of(path)).message
    await storage.store(SERIES, [bar(0)], [PROOF], at_ms=START)
    await storage.close()
    assert await usable(path)


@pytest.mark.parametrize("turns", range(6))
async def test_an_opening_that_is_cancelled_leaves_no_lock_behind(path: Path, turns: int) -> None:
    opening = asyncio.create_task(SQLiteStorage(path).open())
    for _ in range(turns):
        await asyncio.sleep(0)
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    assert await usable(path)


async def test_a_close_during_the_opening_closes(path: Path) -> None:
    storage = SQLiteStorage(path)
    opening = asyncio.create_task(storage.open())
    await asyncio.sleep(0)
    await storage.close()
    await opening
    assert await usable(path)


# The schema


def schema_of(path: Path) -> tuple[int, list[str]]:
    """The version and what the database is made of."""
    with closing(sqlite3.connect(path)) as connection:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        names = connection.execute("SELECT name FROM sqlite_schema WHERE sql IS NOT NULL ORDER BY name")
        return version, [name for (name,) in names]


@pytest.mark.parametrize("exists", [False, True])
async def test_an_absent_or_empty_file_gets_the_schema(path: Path, exists: bool) -> None:
    if exists:
        write(path, b"")
    assert await usable(path)
    assert schema_of(path) == (len(MIGRATIONS), TABLES)


async def test_missing_folders_are_made(tmp_path: Path) -> None:
    assert await usable(tmp_path / "a" / "b" / "bars.db")


async def test_migrating_what_is_up_to_date_changes_nothing(path: Path) -> None:
    assert await usable(path)
    with closing(sqlite3.connect(path, isolation_level=None)) as connection:
        before = list(connection.iterdump())
        migrate(connection)
        migrate(connection)
        assert list(connection.iterdump()) == before


def made_by(path: Path, version: int) -> sqlite3.Connection:
    """A database of a marketd that knew that schema."""
    connection = sqlite3.connect(path, isolation_level=None)
    scripts = "".join(MIGRATIONS[:version])
    connection.executescript(f"BEGIN; {scripts} PRAGMA user_version = {version}; COMMIT;")
    return connection


async def test_what_schema_1_had_is_kept_and_what_it_had_proven_was_an_answer(path: Path) -> None:
    with closing(made_by(path, 1)) as connection:
        connection.execute("INSERT INTO series VALUES (1, 'crypto', 'test', 'BTC/USD', '1m', '', 1)")
        rows = [(1, *bar(0), 0, None), (1, START + M, "NaN", None, 1.0, 1.0, 1.0, 3, START)]
        connection.executemany("INSERT INTO bar VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)
        connection.execute("INSERT INTO coverage VALUES (1, ?, ?)", SPAN)
    async with opened(path) as storage:
        stored = await storage.read(SERIES, TimeRange(START, START + 9 * M), limit=9)
        odd: Bar = (START + M, math.nan, None, 1.0, 1.0, 1.0)
        assert repr(stored) == repr(StoredBars([bar(0), odd], [PROOF]))
        assert (await storage.store(SERIES, [bar(1)], [], at_ms=START)).revised == [Revision(bar(1), 4)]
    assert schema_of(path) == (len(MIGRATIONS), TABLES)


async def test_every_bar_of_schema_2_is_kept_whatever_its_series(path: Path) -> None:
    stored: dict[Series, list[Bar]] = {}
    with closing(made_by(path, 2)) as connection:
        for number, name in enumerate(("1M", "1s", "1m", "1d"), start=1):
            series = Series(INSTRUMENT, Timeframe.parse(name))
            # Six hundred in a row, and one far away on either side.
            first_ms = series.timeframe.floor(START - 550 * series.timeframe.nominal_ms)
            times = [0, *(series.timeframe.shift(first_ms, one) for one in range(600)), 4 * 10**12]
            stored[series] = [
                (series.timeframe.floor(t_ms), 1.0, 2.0, 1.0, 2.0, t_ms / 7) for t_ms in times
            ]
            connection.execute(
                "INSERT INTO series VALUES (?, 'crypto', 'test', 'BTC/USD', ?, '', 0)", (number, name)
            )
            rows = ((number, *one, 0, None) for one in stored[series])
            connection.executemany("INSERT INTO bar VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)
        connection.execute("INSERT INTO series VALUES (9, 'crypto', 'test', 'none', '1m', '', 0)")
    async with opened(path) as storage:
        for series, bars in stored.items():
            found = await storage.read(series, TimeRange(MIN_MS, MAX_MS), limit=10_000)
            assert found.bars == bars


async def test_a_migration_that_fails_changes_nothing(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE coverage (of_another_program TEXT)")
    assert "already exists" in await failure_of(path)
    assert schema_of(path) == (0, ["coverage"])


async def test_a_database_of_a_newer_marketd_is_refused_untouched(path: Path) -> None:
    assert await usable(path)
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 999")
    message = await failure_of(path)
    assert "schema 999" in message
    assert "Upgrade marketd" in message
    assert schema_of(path) == (999, TABLES)


# What cannot be used


async def test_a_file_that_is_no_database_is_refused_untouched(path: Path) -> None:
    content = b"timestamp_ms,open,high,low,close,volume\n" * 100
    write(path, content)
    message = await failure_of(path)
    assert str(path) in message
    assert "not a database" in message
    assert "choose another with [storage] url" in message
    assert content_of(path) == content


async def test_a_path_that_is_a_folder_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "bars"
    folder.mkdir()
    assert "choose another with [storage] url" in await failure_of(folder)


async def test_a_path_below_a_file_is_refused(path: Path) -> None:
    write(path, b"")
    assert "choose another with [storage] url" in await failure_of(path / "bars.db")


async def test_a_folder_without_rights_is_refused(forbidden: Path) -> None:
    message = await failure_of(forbidden / "bars.db")
    assert "Permission denied" in message
    assert "Check the path and its rights" in message
