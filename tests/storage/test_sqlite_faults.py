"""A full disk, and the other ways in which SQLite says no while it is open."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from scripted import INSTRUMENT, MINUTE, START, M, bar

from marketd.domain.bar import Bar
from marketd.domain.coverage import Covered, Reason
from marketd.domain.errors import StorageFailed
from marketd.domain.instrument import Instrument, Series
from marketd.domain.timerange import MAX_MS, MIN_MS, TimeRange
from marketd.storage import Stored
from marketd.storage.sqlite import SQLiteStorage

SERIES = Series(INSTRUMENT, MINUTE)
EVER = TimeRange(MIN_MS, MAX_MS)
PAGE = 500


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "bars.db"


@pytest.fixture
async def storage(path: Path) -> AsyncIterator[SQLiteStorage]:
    storage = SQLiteStorage(path)
    await storage.open()
    yield storage
    await storage.close()


async def pragma(storage: SQLiteStorage, text: str) -> Any:
    """Settings belong to the connection, so it has to be the store's own that is asked."""
    connection = storage._connection
    assert connection is not None
    return (await connection.run(lambda raw: raw.execute(f"PRAGMA {text}").fetchone()))[0]


def page(number: int) -> tuple[list[Bar], Covered]:
    bars = [bar(minute) for minute in range(number * PAGE, (number + 1) * PAGE)]
    return bars, Covered(bars[0][0], bars[-1][0] + M, Reason.DATA)


async def put(storage: SQLiteStorage, number: int) -> Stored:
    bars, span = page(number)
    return await storage.store(SERIES, bars, [span], at_ms=START)


async def fill(storage: SQLiteStorage, stored: list[int]) -> None:
    for number in range(3, 20):
        await put(storage, number)
        stored.append(number)


def damage(path: Path) -> None:
    """Spoils everything behind the first page, on which the schema is."""
    content = path.read_bytes()
    path.write_bytes(content[:4096] + b"\xff" * (len(content) - 4096))


async def test_a_commit_is_on_the_disk_before_it_is_acknowledged(storage: SQLiteStorage) -> None:
    assert await pragma(storage, "journal_mode") == "wal"
    assert await pragma(storage, "synchronous") == 2  # FULL


async def test_a_full_disk_loses_nothing_acknowledged_and_writes_go_on_when_there_is_room(
    path: Path, storage: SQLiteStorage
) -> None:
    stored = [number for number in range(3) if await put(storage, number)]
    await pragma(storage, "max_page_count = 1")  # SQLite takes it for the size that the file has now
    with pytest.raises(StorageFailed, match="full"):
        await fill(storage, stored)
    outcomes = await asyncio.gather(
        *(put(storage, number) for number in range(20, 25)), return_exceptions=True
    )
    assert all(isinstance(outcome, StorageFailed) for outcome in outcomes)

    async def check() -> None:
        bars, coverage = await storage.read(SERIES, EVER, limit=100_000)
        assert bars == [one for number in stored for one in page(number)[0]]
        assert sum(piece.end_ms - piece.start_ms for piece in coverage) == len(bars) * M

    await check()
    await pragma(storage, f"max_page_count = {2**30}")
    for number in range(20, 25):
        assert await put(storage, number) == Stored(PAGE, [])
        stored.append(number)
    await check()
    await storage.close()
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    await storage.open()
    await check()


async def test_of_a_group_that_does_not_fit_the_parts_that_fit_are_stored(
    storage: SQLiteStorage,
) -> None:
    await put(storage, 0)
    await pragma(storage, "max_page_count = 1")
    known = storage.store(SERIES, page(0)[0], [page(0)[1]], at_ms=START)
    again, full = await asyncio.gather(known, put(storage, 1), return_exceptions=True)
    assert again == Stored(0, [])
    assert isinstance(full, StorageFailed)


async def test_a_database_that_is_damaged_fails_reads_and_writes_by_name(
    path: Path, storage: SQLiteStorage
) -> None:
    await put(storage, 0)
    await storage.close()
    damage(path)
    await storage.open()
    with pytest.raises(StorageFailed, match="cannot be read"):
        await storage.read(SERIES, EVER, limit=10)
    with pytest.raises(StorageFailed, match="cannot be written"):
        await put(storage, 1)


async def test_a_symbol_may_hold_a_zero_byte(storage: SQLiteStorage) -> None:
    for minute, symbol in enumerate(["a", "a\0", "a\0b", "\0"]):
        series = Series(Instrument("crypto", "test", symbol), MINUTE)
        await storage.store(series, [bar(minute)], [], at_ms=START)
        assert (await storage.read(series, EVER, limit=10)).bars == [bar(minute)]


async def test_a_symbol_that_is_no_unicode_text_is_refused(storage: SQLiteStorage) -> None:
    series = Series(Instrument("crypto", "test", "\ud800"), MINUTE)
    with pytest.raises(StorageFailed, match="cannot be read"):
        await storage.read(series, EVER, limit=10)
    with pytest.raises(StorageFailed, match="cannot be written"):
        await storage.store(series, [bar(0)], [], at_ms=START)
