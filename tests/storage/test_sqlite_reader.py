"""Reads of one connection in groups: each is answered for itself, and none waits long for the others."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator, Callable
from functools import partial

import pytest

from marketd.domain.errors import StorageFailed
from marketd.storage.sqlite.connection import Connection
from marketd.storage.sqlite.reader import Reader


class Counted(Connection):
    """Counts the turns of its thread."""

    turns = 0

    def call(self, function: Callable[[sqlite3.Connection], None]) -> None:
        self.turns += 1
        super().call(function)


@pytest.fixture
async def connection() -> AsyncIterator[Counted]:
    opened = Counted(partial(sqlite3.connect, ":memory:"), iter_chunk_size=64)
    async with opened:
        yield opened


def number(n: int, connection: sqlite3.Connection) -> int:
    return int(connection.execute("SELECT ?", (n,)).fetchone()[0])


def slow(connection: sqlite3.Connection) -> str:
    time.sleep(0.005)  # in the connection's thread: longer than a group may take
    return "slow"


def wrong(connection: sqlite3.Connection) -> None:
    connection.execute("SELECT nothing")


async def test_reads_that_wait_take_one_turn_of_the_thread(connection: Counted) -> None:
    reader = Reader(connection)
    reads = [reader.read(partial(number, n)) for n in range(10)]
    assert await asyncio.gather(*reads) == list(range(10))
    # On a machine that stands still for a while they may need another.
    assert connection.turns < 10


async def test_a_read_that_fails_fails_alone(connection: Counted) -> None:
    reader = Reader(connection)
    reads = [reader.read(partial(number, 1)), reader.read(wrong), reader.read(partial(number, 2))]
    one, error, two = await asyncio.gather(*reads, return_exceptions=True)
    assert (one, two) == (1, 2)
    assert isinstance(error, sqlite3.OperationalError)


async def test_what_was_read_does_not_wait_for_what_comes_after_a_slow_read(connection: Counted) -> None:
    reader = Reader(connection)
    first = asyncio.create_task(reader.read(slow))
    later = [asyncio.create_task(reader.read(slow)) for _ in range(3)]
    assert await first == "slow"
    assert not any(read.done() for read in later)
    assert await asyncio.gather(*later) == ["slow"] * 3


async def test_who_does_not_wait_any_more_costs_the_others_nothing(connection: Counted) -> None:
    reader = Reader(connection)
    reads = [asyncio.create_task(reader.read(partial(number, n))) for n in range(3)]
    await asyncio.sleep(0)
    reads[1].cancel()
    assert await asyncio.gather(reads[0], reads[2]) == [0, 2]


async def test_what_was_asked_is_answered_before_the_end(connection: Counted) -> None:
    reader = Reader(connection)
    reads = [asyncio.create_task(reader.read(slow)) for _ in range(3)]
    await asyncio.sleep(0)
    await reader.finish()
    assert await asyncio.gather(*reads) == ["slow"] * 3


async def test_what_a_closed_connection_is_asked_fails(connection: Counted) -> None:
    reader = Reader(connection)
    await connection.close()
    with pytest.raises(StorageFailed, match="not open"):
        await reader.read(partial(number, 1))
