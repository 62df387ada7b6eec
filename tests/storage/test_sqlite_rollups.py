"""Bars computed ahead in SQLite: to the last bit, cheap to read, and never in the way of an answer."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import AsyncIterator, Awaitable
from pathlib import Path
from typing import TypeVar

import pytest
from scripted import INSTRUMENT, MINUTE, START, M

from marketd.domain.bar import Bar
from marketd.domain.errors import StorageFailed
from marketd.domain.instrument import Series
from marketd.domain.resample import resample
from marketd.domain.timeframe import Timeframe
from marketd.domain.timerange import MAX_MS, MIN_MS, TimeRange
from marketd.storage.rollups import KEPT
from marketd.storage.sqlite import SQLiteStorage

T = TypeVar("T")

SERIES = Series(INSTRUMENT, MINUTE)
EVER = TimeRange(MIN_MS, MAX_MS)
HOUR, DAY, WEEK = map(Timeframe.parse, ("1h", "1d", "1w"))
MINUTES = 40 * 1440


@pytest.fixture(scope="module")
def bars() -> list[Bar]:
    """Forty days, with volumes whose sum depends on the order in which they are added up."""
    chance = random.Random(3)  # noqa: S311
    return [
        (START + n * M, 1.0, 2.0, 0.5, 1.5, chance.random() * 10 ** chance.randint(0, 9))
        for n in range(MINUTES)
    ]


@pytest.fixture
async def storage(tmp_path: Path, bars: list[Bar]) -> AsyncIterator[SQLiteStorage]:
    storage = SQLiteStorage(tmp_path / "bars.db")
    await storage.open()
    await storage.store(SERIES, bars, [], at_ms=START)
    yield storage
    await storage.close()


async def steps(storage: SQLiteStorage, work: Awaitable[T]) -> tuple[T, int]:
    """What `work` gives, and how many thousand instructions SQLite's machine takes for it."""
    taken = 0

    def count() -> int:
        nonlocal taken
        taken += 1
        return 0

    connection = storage._connection
    assert connection is not None

    def listen(raw: sqlite3.Connection) -> None:
        raw.set_progress_handler(count, 1_000)

    await connection.run(listen)
    return await work, taken


async def test_every_kept_timeframe_is_the_resamplers_to_the_last_bit(
    storage: SQLiteStorage, bars: list[Bar]
) -> None:
    for timeframe in KEPT * 2:
        found = await storage.aggregate(SERIES, timeframe, EVER, limit=100_000)
        assert repr(found) == repr(resample(bars, timeframe))


async def test_what_is_computed_ahead_costs_its_own_rows_and_not_those_of_the_base(
    storage: SQLiteStorage, bars: list[Bar]
) -> None:
    await storage.refresh()
    for timeframe, rows in ((HOUR, MINUTES / 60), (DAY, 40), (WEEK, 7)):
        asked = storage.aggregate(SERIES, timeframe, EVER, limit=10_000, newest=True)
        found, taken = await steps(storage, asked)
        assert found == resample(bars, timeframe)
        # A row takes about ten instructions; the base bars would be fifty thousand rows.
        assert taken <= rows * 20 / 1_000 + 3


async def test_the_first_question_computes_for_those_that_follow(
    storage: SQLiteStorage, bars: list[Bar]
) -> None:
    _, first = await steps(storage, storage.aggregate(SERIES, DAY, EVER, limit=30, newest=True))
    found, second = await steps(storage, storage.aggregate(SERIES, DAY, EVER, limit=30, newest=True))
    assert found == resample(bars, DAY)[-30:]
    assert second * 100 < first


async def test_a_change_costs_the_buckets_that_it_touches(storage: SQLiteStorage) -> None:
    await storage.refresh()
    await storage.aggregate(SERIES, Timeframe.parse("12h"), EVER, limit=10_000)
    kept = len(["1h", "4h", "1d", "1w", "1M", "12h"])
    assert await storage.refresh() == 0
    for t_ms, rows in ((START + 900 * M, 1), (START + MINUTES * M, 1)):
        await storage.store(SERIES, [(t_ms, 9.0, 9.0, 9.0, 9.0, 9.0)], [], at_ms=START)
        assert await storage.refresh() == kept * rows
    await storage.store(SERIES, [(START + 900 * M, 9.0, 9.0, 9.0, 9.0, 9.0)], [], at_ms=START)
    assert await storage.refresh() == 0


async def test_without_room_to_keep_them_aggregates_are_computed_all_the_same(
    storage: SQLiteStorage, bars: list[Bar]
) -> None:
    connection = storage._connection
    assert connection is not None
    await connection.run(lambda raw: raw.execute("PRAGMA max_page_count = 1").fetchall())
    with pytest.raises(StorageFailed, match="full"):
        await storage.refresh()
    for timeframe in (HOUR, DAY):
        found = await storage.aggregate(SERIES, timeframe, EVER, limit=10_000)
        assert found == resample(bars, timeframe)
    await connection.run(lambda raw: raw.execute(f"PRAGMA max_page_count = {2**30}").fetchall())
    await storage.probe()
    assert await storage.refresh() > 0
