"""What one process writes to a PostgreSQL the others hear of."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from postgres_stores import connected, opened
from scripted import INSTRUMENT, MINUTE, START, M, bar

from marketd.domain.errors import StorageFailed
from marketd.domain.instrument import Series
from marketd.domain.timerange import TimeRange
from marketd.storage import Change
from marketd.storage.postgres import PostgresStorage

SERIES = Series(INSTRUMENT, MINUTE)

LISTENING = """
    FROM pg_stat_activity
    WHERE datname = current_database() AND application_name = 'marketd listening'
"""


async def put(storage: PostgresStorage, minute: int) -> None:
    await storage.store(SERIES, [bar(minute)], [], at_ms=START)


@asynccontextmanager
async def listening(url: str) -> AsyncIterator[asyncio.Queue[Change | None]]:
    """What a node is told of changes; it has no writes of its own."""
    heard: asyncio.Queue[Change | None] = asyncio.Queue()
    storage = PostgresStorage(url)
    storage.listen(heard.put_nowait)
    await storage.open()
    try:
        yield heard
    finally:
        await storage.close()


async def next_of(heard: asyncio.Queue[Change | None]) -> Change | None:
    return await asyncio.wait_for(heard.get(), 20)


async def test_what_another_process_writes_is_told_whether_it_revised_any_and_ones_own_but_once(
    url: str,
) -> None:
    async with listening(url) as heard, opened(url) as other:
        own: list[Change | None] = []
        other.listen(own.append)
        await other.store(SERIES, [bar(0), bar(3)], [], at_ms=START)
        wide = TimeRange(START, START + 3 * M + 1)
        assert await next_of(heard) == Change(SERIES, wide, is_revision=False)
        await other.store(SERIES, [bar(0), bar(1, close=2.0)], [], at_ms=START + 1)
        narrow = TimeRange(START, START + M + 1)
        assert await next_of(heard) == Change(SERIES, narrow, is_revision=False)
        await other.store(SERIES, [bar(0, close=3.0), bar(1, close=2.0)], [], at_ms=START + 2)
        revised = Change(SERIES, narrow, is_revision=True)
        assert await next_of(heard) == revised
        # Nothing new, and nothing that came to be.
        await other.store(SERIES, [bar(0, close=3.0)], [], at_ms=START + 3)
        with pytest.raises(StorageFailed):
            await other.store(SERIES, [(2**63, 1.0, 1.0, 1.0, 1.0, 1.0)], [], at_ms=START)
        await put(other, 9)
        last = Change(SERIES, TimeRange(START + 9 * M, START + 9 * M + 1), is_revision=False)
        assert await next_of(heard) == last
        assert own == [
            Change(SERIES, wide, is_revision=False),
            Change(SERIES, narrow, is_revision=False),
            revised,
            last,
        ]
        # Its own it hears at once, and not again from the database.
        async with listening(url) as also:
            await put(other, 10)
            await next_of(also)
        assert len(own) == 5


async def test_who_could_not_hear_for_a_while_is_told_so_and_hears_again(url: str) -> None:
    cut = f"SELECT pg_terminate_backend(pid) {LISTENING}"
    async with listening(url) as heard, opened(url) as other:
        await put(other, 0)
        assert await next_of(heard) is not None
        async with connected(url) as connection:
            assert await connection.fetch(cut) == [(True,)]
        assert await next_of(heard) is None
        # Whenever it came back: what is written from then on is heard.
        minute = 1
        while await next_of(heard) is None:
            await put(other, minute)
            minute += 1


async def test_who_is_told_too_much_at_once_or_nonsense_is_told_that_anything_may_have_changed(
    url: str,
) -> None:
    async with listening(url) as heard, opened(url) as other, connected(url) as connection:
        channel = await connection.fetchval("SELECT 'marketd_' || 'marketd_schema'::regclass::oid")
        for nonsense in ("", "x", "n 99 0 1 0", "a b c d e", "n 1 1 1 1 1"):
            await connection.execute("SELECT pg_notify($1, $2)", channel, nonsense)
            assert await next_of(heard) is None
        await put(other, 0)
        assert await next_of(heard) is not None
        await connection.execute(
            "SELECT pg_notify($1, format('n 1 %s %s 0', n, n + 1)) FROM generate_series(1, 5000) AS n",
            channel,
        )
        while await next_of(heard) is not None:
            pass


async def test_a_store_that_nobody_listens_to_has_no_connection_for_it(url: str) -> None:
    async with opened(url), connected(url) as connection:
        assert await connection.fetch(f"SELECT pid {LISTENING}") == []
        async with listening(url):
            assert len(await connection.fetch(f"SELECT pid {LISTENING}")) == 1
