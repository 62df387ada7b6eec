"""Two nodes over one PostgreSQL and one Redis: what one changes, the other does not find as it was."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg
from scripted import INSTRUMENT, MINUTE, START, M, bar
from servers.postgres import PostgresServer

from marketd.cache import MemoryCache
from marketd.cache.redis import RedisCache
from marketd.domain.coverage import Covered, Reason
from marketd.domain.instrument import Series
from marketd.domain.timerange import TimeRange
from marketd.market.stored import StoredReads
from marketd.metrics import Metrics
from marketd.storage.postgres import PostgresStorage

SERIES = Series(INSTRUMENT, MINUTE)
SPAN = TimeRange(START, START + 480 * M)


class Node:
    """One process's store, and its reads by way of the caches."""

    def __init__(self, storage: PostgresStorage, redis_url: str, heard: asyncio.Event) -> None:
        self.storage = storage
        self.redis = RedisCache(redis_url, storage.identity, Metrics())
        self.reads = StoredReads(storage, [MemoryCache(1_000_000), self.redis])
        self.heard = heard

    async def closes(self) -> tuple[set[object], set[str]]:
        """Every closing price, and where they came from."""
        found = await self.reads.read(SERIES, SPAN, limit=1_000)
        return {one[4] for one in found.bars}, {name for name, n in found.sources.items() if n}

    async def write(self, close: float) -> None:
        bars = [bar(minute, close) for minute in range(480)]
        await self.storage.store(SERIES, bars, [Covered(*SPAN, Reason.DATA)], at_ms=START)


@asynccontextmanager
async def node(url: str, redis_url: str) -> AsyncIterator[Node]:
    storage = PostgresStorage(url, connections=2)
    heard = asyncio.Event()
    storage.listen(lambda _: heard.set())
    await storage.open()
    one = Node(storage, redis_url, heard)
    try:
        yield one
    finally:
        await one.redis.close()
        await storage.close()


async def test_a_revision_at_one_node_is_what_the_other_answers_with(
    postgres_server: PostgresServer, redis_url: str
) -> None:
    connection = await asyncpg.connect(postgres_server.url())
    await connection.execute("CREATE SCHEMA IF NOT EXISTS cached")
    await connection.close()
    url = f"{postgres_server.url()}?search_path=cached"
    async with node(url, redis_url) as one, node(url, redis_url) as other:
        await one.write(101.0)
        for _ in range(4):
            await one.closes()
            await other.closes()
        assert await one.closes() == await other.closes() == ({101.0}, {"memory"})
        other.heard.clear()
        await one.write(102.0)
        assert (await one.closes())[0] == {102.0}
        await asyncio.wait_for(other.heard.wait(), 30)
        for _ in range(4):
            assert (await other.closes())[0] == {102.0}
            assert (await one.closes())[0] == {102.0}
