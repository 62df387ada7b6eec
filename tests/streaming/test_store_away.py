"""A database server that goes away under live streams: bars wait, none is lost, none comes twice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest
from scripted import START, M, bar
from servers.postgres import PostgresServer

from marketd.domain.timerange import TimeRange
from marketd.storage import Storage
from marketd.storage.postgres import PostgresStorage

HISTORY = [bar(minute) for minute in range(10)]
NOW = START + 10 * M + 20_000

Make = Callable[..., Any]


@pytest.fixture
async def storage(postgres_server: PostgresServer) -> Storage:
    connection = await asyncpg.connect(postgres_server.url())
    await connection.execute("DROP SCHEMA IF EXISTS away CASCADE; CREATE SCHEMA away")
    await connection.close()
    return PostgresStorage(f"{postgres_server.url()}?search_path=away", patience_s=2)


@asynccontextmanager
async def away(server: PostgresServer) -> AsyncIterator[None]:
    await asyncio.to_thread(server.stop)
    try:
        yield
    finally:
        await asyncio.to_thread(server.start)


async def test_what_the_stream_says_while_the_store_is_away_waits_and_is_published_once_stored(
    make_world: Make, postgres_server: PostgresServer
) -> None:
    world = make_world(HISTORY, NOW)
    client = world.client()
    subscription, _ = world.subscribe(client)
    subscription.go_live()
    world.says(bar(10, close=1.0), closed=False)
    await client.next("bar")
    world.clock.set(START + 11 * M + 1)
    world.says(bar(10), closed=True)
    assert await client.closed(1) == [bar(10)]
    asked = len(world.plugin.calls)
    async with away(postgres_server):
        world.says(bar(10, close=101.0), closed=True)
        world.clock.set(START + 12 * M + 1)
        world.says(bar(11), closed=True)
        told = await client.next()
        assert (told["type"], told["state"]) == ("status", "down")
        assert "The database cannot be written" in told["message"]
    messages = [await client.next() for _ in range(3)]
    bars = {(tuple(one["bar"]), one["closed"], one["rev"]) for one in messages if "bar" in one}
    assert bars == {(bar(10, close=101.0), True, 1), (bar(11), True, 0)}
    assert [one["state"] for one in messages if "state" in one] == ["live"]
    stored = await world.storage.read(world.feed.series, TimeRange(START, START + 20 * M), limit=50)
    assert stored.bars == [bar(10, close=101.0), bar(11)]
    # All of it is what the stream had said: neither was it begun anew, nor history asked.
    assert (world.plugin.streams, len(world.plugin.calls)) == (1, asked)


async def test_more_than_can_wait_is_asked_of_history_once_the_store_is_back(
    make_world: Make, postgres_server: PostgresServer
) -> None:
    bars = [bar(minute) for minute in range(1_500)]
    world = make_world(bars, NOW)
    client = world.client()
    subscription, _ = world.subscribe(client)
    subscription.go_live()
    world.says(bar(10, close=1.0), closed=False)
    await client.next("bar")
    async with away(postgres_server):
        world.clock.set(START + 1_400 * M + 1)
        for minute in range(10, 1_400):
            world.says(bar(minute), closed=True)
        assert (await client.next("status"))["state"] == "down"
        # The stream is given up, and begun anew at least once before the store is back.
        async with asyncio.timeout(30):
            await world.plugin.ended.wait()
    assert await client.closed(1_390) == bars[10:1_400]
    assert (await world.rest(world.feed.series.timeframe, START + 10 * M))[:1_390] == bars[10:1_400]
