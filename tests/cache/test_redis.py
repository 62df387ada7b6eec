"""What nodes share through Redis is never older than what they have heard of, whatever Redis does."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TypeAlias
from uuid import uuid4

import pytest
import redis
from redis_server import PASSWORD, RedisServer
from scripted import INSTRUMENT, MINUTE, START, bar

from marketd.cache import Bucket, BucketKey, bucket_of
from marketd.cache.redis import RedisCache
from marketd.domain.instrument import Series
from marketd.domain.packing import unpack
from marketd.metrics import Metrics

SERIES = Series(INSTRUMENT, MINUTE)
KEY = bucket_of(SERIES, START)
OTHER = BucketKey(SERIES, KEY.number + 1)

Join: TypeAlias = Callable[[], RedisCache]


def bucket(close: float) -> Bucket:
    return Bucket.of([bar(minute, close) for minute in range(240)], [KEY.span])


async def put(node: RedisCache, close: float, key: BucketKey = KEY) -> None:
    await node.keep({key: bucket(close)}, await node.claim([key]))


async def change(node: RedisCache) -> None:
    """Tells a node of a change, and returns once it has told Redis."""
    node.forget(SERIES, KEY.span)
    assert node._sweeping is not None
    await node._sweeping


async def close_at(node: RedisCache, key: BucketKey = KEY) -> object:
    """The closing price that a node finds; None if it finds nothing."""
    found = await node.find([key])
    return unpack(found[key].packed)[0][4] if found else None


@pytest.fixture
async def join(redis_url: str) -> AsyncIterator[Join]:
    """Makes nodes of one database."""
    nodes: list[RedisCache] = []
    space = uuid4().hex

    def join() -> RedisCache:
        nodes.append(RedisCache(redis_url, space, Metrics()))
        return nodes[-1]

    yield join
    for node in nodes:
        await node.close()


@pytest.fixture
async def pair(join: Join) -> tuple[RedisCache, RedisCache]:
    """Two nodes that have found each other."""
    one, other = join(), join()
    await other.find([KEY])
    await one.find([KEY])
    await other.find([KEY])
    return one, other


@pytest.fixture
def server(redis_url: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(redis_url) as client:
        yield client


@pytest.fixture
def leaving(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis that a test may stop."""
    with RedisServer(tmp_path) as server:
        server.start()
        yield server


@asynccontextmanager
async def alone(url: str) -> AsyncIterator[RedisCache]:
    node = RedisCache(url, uuid4().hex, Metrics())
    try:
        yield node
    finally:
        await node.close()


async def test_what_one_node_keeps_the_other_finds(pair: tuple[RedisCache, RedisCache]) -> None:
    one, other = pair
    await put(one, 1.0)
    assert await close_at(other) == 1.0


async def test_a_database_of_its_own_shares_nothing(
    pair: tuple[RedisCache, RedisCache], redis_url: str
) -> None:
    await put(pair[0], 1.0)
    async with alone(redis_url) as stranger:
        assert await close_at(stranger) is None
    assert await close_at(pair[1]) == 1.0


async def test_what_a_node_read_before_a_change_loses_though_it_has_not_heard_of_it(
    pair: tuple[RedisCache, RedisCache],
) -> None:
    one, other = pair
    claim = await other.claim([KEY])
    await change(one)
    await other.keep({KEY: bucket(1.0)}, claim)
    assert await close_at(one) is await close_at(other) is None


async def test_until_a_change_has_gone_out_the_node_that_heard_of_it_does_not_look(
    pair: tuple[RedisCache, RedisCache],
) -> None:
    one, other = pair
    await put(other, 1.0)
    one.forget(SERIES, KEY.span)
    assert await close_at(one) is None


async def test_what_was_on_its_way_when_a_change_was_told_is_not_taken(
    pair: tuple[RedisCache, RedisCache],
) -> None:
    one, other = pair
    for steps in range(1, 8):
        await put(other, 1.0)
        reading = asyncio.create_task(one.find([KEY]))
        for _ in range(steps):
            await asyncio.sleep(0)
        if not reading.done():
            await change(one)
            assert await reading == {}


async def test_what_has_been_claimed_anew_is_kept_once(pair: tuple[RedisCache, RedisCache]) -> None:
    one, other = pair
    claims = [await node.claim([KEY]) for node in pair]
    await one.keep({KEY: bucket(1.0)}, claims[0])
    assert await close_at(other) is None
    await other.keep({KEY: bucket(2.0)}, claims[1])
    assert await close_at(one) == 2.0


async def test_what_was_claimed_before_redis_was_emptied_is_not_kept(
    pair: tuple[RedisCache, RedisCache], server: redis.Redis
) -> None:
    one, other = pair
    claim = await other.claim([KEY])
    server.flushall()
    await change(one)
    await other.keep({KEY: bucket(1.0)}, claim)
    for node in (*pair, *pair):
        assert await close_at(node) is None
    await put(one, 2.0)
    assert await close_at(other) == 2.0


async def test_a_node_that_could_not_remove_something_puts_an_end_to_all_of_it(
    pair: tuple[RedisCache, RedisCache], server: redis.Redis
) -> None:
    one, other = pair
    await put(other, 1.0)
    server.execute_command("ACL", "SETUSER", "default", "-unlink")
    try:
        await change(one)
    finally:
        server.execute_command("ACL", "SETUSER", "default", "+unlink")
    assert one._lost > one._made_up
    one._link._look_again_s = 0.0
    assert await close_at(one) is None
    assert await close_at(other) is None
    await put(other, 2.0)
    assert await close_at(one) == 2.0


async def test_a_node_that_begins_takes_nothing_from_before(
    join: Join, pair: tuple[RedisCache, RedisCache]
) -> None:
    await put(pair[0], 1.0)
    # It may be the one that was killed between a write and its removal.
    assert await close_at(join()) is None
    assert await close_at(pair[1]) is None


async def test_what_a_server_brings_back_from_its_disk_is_not_taken(leaving: RedisServer) -> None:
    async with alone(leaving.url) as node:
        await node.find([KEY])
        await put(node, 1.0)
        with redis.Redis.from_url(leaving.url) as client:
            kept = {name: client.dump(name) for name in client.scan_iter()}
        assert len(kept) == 2
        leaving.stop()
        leaving.start()
        with redis.Redis.from_url(leaving.url) as client:
            for name, value in kept.items():
                client.restore(name, 0, value)
        assert await close_at(node) is None
        await put(node, 2.0)
        assert await close_at(node) == 2.0


async def test_a_change_of_years_is_forgotten_as_one(pair: tuple[RedisCache, RedisCache]) -> None:
    one, other = pair
    await put(other, 1.0)
    await put(other, 2.0, OTHER)
    one.forget(SERIES, KEY.span._replace(start_ms=0))
    assert one._changed == {}
    assert await close_at(one) is None
    assert await close_at(other, OTHER) is None


async def test_nothing_but_the_epoch_is_kept_for_ever(
    pair: tuple[RedisCache, RedisCache], server: redis.Redis
) -> None:
    await put(pair[0], 1.0)
    await pair[0].claim([OTHER])
    lives = {
        name: server.pttl(name) for name in server.scan_iter(match=f"{pair[0]._prefix}*", count=1_000)
    }
    epoch = lives.pop(pair[0]._prefix.encode())
    assert epoch == -1
    assert len(lives) == 2
    assert all(0 < life_ms <= 86_400_000 for life_ms in lives.values())


async def test_a_redis_without_room_keeps_nothing_and_is_no_fault(
    pair: tuple[RedisCache, RedisCache], server: redis.Redis, caplog: pytest.LogCaptureFixture
) -> None:
    server.config_set("maxmemory", "1")
    try:
        await put(pair[0], 1.0)
        assert await close_at(pair[1]) is None
    finally:
        server.config_set("maxmemory", "0")
    await put(pair[0], 1.0)
    assert await close_at(pair[1]) == 1.0
    assert "away" not in caplog.text


async def test_what_somebody_else_put_there_is_not_taken(
    pair: tuple[RedisCache, RedisCache], server: redis.Redis
) -> None:
    await put(pair[0], 1.0)
    (name,) = (one for one in server.scan_iter(f"{pair[0]._prefix}*") if one[-1:] != b":")
    value = server.get(name)
    for odd in (b"", b"odd", value[:-1], value[:40]):
        server.set(name, odd)
        assert await close_at(pair[1]) is None


async def test_redis_gone_is_told_once_and_kept_from_the_reads_until_it_is_back(
    leaving: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    async with alone(leaving.url) as node:
        with caplog.at_level(logging.INFO, "marketd"):
            await node.find([KEY])
            await put(node, 1.0)
            leaving.stop()
            for _ in range(20):
                assert await close_at(node) is None
                node.forget(SERIES, KEY.span)
                await put(node, 2.0)
            leaving.start()
            async with asyncio.timeout(30):
                while await close_at(node) is None:
                    await put(node, 3.0)
        assert await close_at(node) == 3.0
    told = [record.getMessage() for record in caplog.records if record.name.startswith("marketd")]
    assert [line.split()[:2] for line in told] == [["redis", "away"], ["redis", "back;"]]
    assert PASSWORD not in caplog.text


async def test_a_redis_that_never_answers_holds_nobody_up_for_long() -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(1_000):
            pass
        writer.close()

    listener = await asyncio.start_server(silent, "127.0.0.1", 0)
    host, port = listener.sockets[0].getsockname()
    async with alone(f"redis://{host}:{port}") as node:
        loop = asyncio.get_running_loop()
        begun_s = loop.time()
        for _ in range(50):
            assert await close_at(node) is None
            node.forget(SERIES, KEY.span)
        assert loop.time() - begun_s < 5
    listener.close()
    await listener.wait_closed()


async def test_a_cancelled_reader_leaves_the_connection_usable(
    pair: tuple[RedisCache, RedisCache],
) -> None:
    one, _ = pair
    await put(one, 1.0)
    for steps in range(12):
        task = asyncio.create_task(one.find([KEY]))
        for _ in range(steps):
            await asyncio.sleep(0)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        assert await close_at(one) == 1.0
