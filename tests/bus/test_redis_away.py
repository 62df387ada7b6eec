"""A Redis that is restarted, or says nothing any more: nodes find out, and find it again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from redis_server import PASSWORD, RedisServer

from marketd.bus import BusAway
from marketd.bus.redis import RedisBus, RedisLeases, connect

PATIENCE_S = 20


@pytest.fixture
def leaving(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis that a test may stop."""
    with RedisServer(tmp_path) as server:
        server.start()
        yield server


@pytest.fixture
async def bus(leaving: RedisServer) -> AsyncIterator[RedisBus]:
    """A node's bus that is running."""
    redis = connect(leaving.url)
    bus = RedisBus(redis, "test")
    running = asyncio.create_task(bus.run())
    yield bus
    running.cancel()
    await asyncio.wait([running])
    await redis.aclose()


@pytest.fixture
async def leases(leaving: RedisServer) -> AsyncIterator[RedisLeases]:
    """A node's leases."""
    redis = connect(leaving.url)
    yield RedisLeases(redis, "test")
    await redis.aclose()


class Ear:
    """A node that was subscribed once and for all."""

    def __init__(self, bus: RedisBus) -> None:
        self._bus = bus
        self._said: set[bytes] = set()
        bus.subscribe("a", self._said.add)

    async def hears(self, word: bytes) -> None:
        """Returns once the node hears what it says itself."""
        async with asyncio.timeout(PATIENCE_S):
            while word not in self._said:
                self._bus.publish("a", word)
                await asyncio.sleep(0.05)


async def test_a_restarted_server_is_heard_again(leaving: RedisServer, bus: RedisBus) -> None:
    ear = Ear(bus)
    await ear.hears(b"before")
    leaving.stop()
    bus.publish("a", b"lost")
    # Long enough for its client library to give the connection up.
    await asyncio.sleep(1)
    leaving.start()
    await ear.hears(b"after")


async def test_a_server_that_is_mute_is_left_and_heard_again_when_it_speaks(
    leaving: RedisServer, bus: RedisBus
) -> None:
    ear = Ear(bus)
    await ear.hears(b"before")
    leaving.freeze()
    # Longer than it may say nothing, so that the connection is given up meanwhile.
    await asyncio.sleep(4)
    leaving.thaw()
    await ear.hears(b"after")


async def test_what_cannot_be_published_is_lost_and_takes_no_more_room_than_it_may(
    leaving: RedisServer, bus: RedisBus
) -> None:
    leaving.stop()
    for number in range(30_000):
        bus.publish("a", b"%d" % number)
    assert len(bus._waiting) <= 10_000
    leaving.start()
    await Ear(bus).hears(b"after")


async def test_a_claim_fails_within_a_moment_while_the_server_is_away_and_tells_no_address(
    leaving: RedisServer, leases: RedisLeases
) -> None:
    await leases.claim({"x": b""})
    loop = asyncio.get_running_loop()
    for leave, come_back in ((leaving.freeze, leaving.thaw), (leaving.stop, leaving.start)):
        leave()
        begun_s = loop.time()
        with pytest.raises(BusAway) as away:
            await leases.claim({"x": b""})
        with pytest.raises(BusAway):
            await leases.claim({})
        assert loop.time() - begun_s < PATIENCE_S
        assert PASSWORD not in str(away.value)
        assert "redis.sock" not in str(away.value)
        come_back()
        assert (await leases.claim({"x": b"again"}))["x"] == (leases.node, b"again")
