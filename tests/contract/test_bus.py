"""The contract between nodes: what one says the others hear, and one of them leads."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from typing import NamedTuple, TypeAlias
from uuid import uuid4

import pytest

from marketd.bus import Held, Leases, MessageBus
from marketd.bus.base import LEASE_MS
from marketd.bus.local import LocalBus, LocalHub, LocalLeases
from marketd.bus.redis import RedisBus, RedisLeases, connect

PATIENCE_S = 10


class Node(NamedTuple):
    bus: MessageBus
    leases: Leases


Make: TypeAlias = Callable[[], Node]


@pytest.fixture(params=["local", "redis"])
async def make(request: pytest.FixtureRequest) -> AsyncIterator[Make]:
    """Makes nodes that know each other."""
    if request.param == "local":
        hub = LocalHub(asyncio.get_running_loop().time)
        yield lambda: Node(LocalBus(hub), LocalLeases(hub, uuid4().hex))
        return
    redis, space = connect(request.getfixturevalue("redis_url")), uuid4().hex
    running: list[asyncio.Task[None]] = []

    def make() -> Node:
        bus = RedisBus(redis, space)
        running.append(asyncio.create_task(bus.run()))
        return Node(bus, RedisLeases(redis, space))

    async with AsyncExitStack() as stack:
        stack.push_async_callback(redis.aclose)
        yield make
        for task in running:
            task.cancel()
        await asyncio.wait(running)


class Ear:
    """What one node hears of a channel."""

    def __init__(self, bus: MessageBus, channel: str) -> None:
        self._queue: asyncio.Queue[bytes] = asyncio.Queue()
        bus.subscribe(channel, self.hear)

    def hear(self, message: bytes) -> None:
        self._queue.put_nowait(message)

    async def next(self) -> bytes:
        async with asyncio.timeout(PATIENCE_S):
            return await self._queue.get()

    async def until(self, bus: MessageBus, channel: str, word: bytes) -> list[bytes]:
        """What comes up to `word`, which `bus` says until it has come: a subscription takes a moment."""
        heard: list[bytes] = []
        async with asyncio.timeout(PATIENCE_S):
            while word not in heard:
                bus.publish(channel, word)
                try:
                    async with asyncio.timeout(0.05):
                        heard.append(await self._queue.get())
                except TimeoutError:
                    continue
        return heard


# Messages


async def test_what_one_node_says_every_subscribed_one_hears_in_order(make: Make) -> None:
    speaker = make()
    ears = [Ear(node.bus, "a") for node in (speaker, make(), make())]
    for ear in ears:
        await ear.until(speaker.bus, "a", b"ready")
    said = [b"%d" % number for number in range(1_000)]
    for message in said:
        speaker.bus.publish("a", message)
    for ear in ears:
        heard = [await ear.next() for _ in range(10)]
        while heard[-1] != said[-1]:
            heard.append(await ear.next())
        assert [message for message in heard if message != b"ready"] == said


async def test_a_node_hears_what_it_is_subscribed_to_and_nothing_else(make: Make) -> None:
    speaker, listener = make(), make()
    a, b = Ear(listener.bus, "a"), Ear(listener.bus, "b")
    for ear, channel in ((a, "a"), (b, "b")):
        await ear.until(speaker.bus, channel, b"ready")
    speaker.bus.publish("c", b"nobody")
    speaker.bus.publish("a", b"\xff\x00 any bytes")
    assert set(await a.until(speaker.bus, "a", b"end")) <= {b"ready", b"\xff\x00 any bytes", b"end"}
    assert set(await b.until(speaker.bus, "b", b"end")) <= {b"ready", b"end"}


async def test_nothing_is_heard_after_unsubscribing_and_all_again_after_subscribing(make: Make) -> None:
    speaker, listener = make(), make()
    ear, other = Ear(listener.bus, "a"), Ear(listener.bus, "b")
    await ear.until(speaker.bus, "a", b"before")
    listener.bus.unsubscribe("a", ear.hear)
    listener.bus.unsubscribe("a", ear.hear)  # twice is fine
    speaker.bus.publish("a", b"lost")
    await other.until(speaker.bus, "b", b"later")
    again = Ear(listener.bus, "a")
    listener.bus.unsubscribe("a", ear.hear)  # who came later is heard
    assert set(await again.until(speaker.bus, "a", b"after")) == {b"after"}


# Leases


async def test_of_nodes_that_claim_at_once_one_leads_and_all_know_which(make: Make) -> None:
    nodes = [make() for _ in range(5)]
    told = await asyncio.gather(*(node.leases.claim({"x": node.leases.node.encode()}) for node in nodes))
    holders = {held["x"] for held in told}
    assert len(holders) == 1
    (held,) = holders
    assert held in [Held(node.leases.node, node.leases.node.encode()) for node in nodes]


async def test_a_claim_renews_and_its_note_is_the_holders_newest(make: Make) -> None:
    one, other = make().leases, make().leases
    await one.claim({"x": b"1"})
    assert await other.claim({"x": b"mine"}) == {"x": Held(one.node, b"1")}
    assert await one.claim({"x": b"2\x00\xff"}) == {"x": Held(one.node, b"2\x00\xff")}
    assert await other.claim({"x": b"mine"}) == {"x": Held(one.node, b"2\x00\xff")}


async def test_many_leases_are_claimed_at_once_and_each_has_its_own_holder(make: Make) -> None:
    one, other = make().leases, make().leases
    names = [f"series {number}" for number in range(500)]
    await one.claim(dict.fromkeys(names[::2], b"one"))
    held = await other.claim(dict.fromkeys(names, b"other"))
    assert [held[name].node for name in names] == [one.node, other.node] * 250
    assert await one.claim({}) == {}


async def test_a_lease_that_is_given_back_is_free_at_once_and_only_its_holder_can(make: Make) -> None:
    one, other = make().leases, make().leases
    await one.claim({"x": b"", "y": b""})
    await other.release(["x", "unknown"])
    assert (await other.claim({"x": b""}))["x"].node == one.node
    await one.release(["x"])
    held = await other.claim({"x": b"", "y": b""})
    assert (held["x"].node, held["y"].node) == (other.node, one.node)


async def test_a_lease_that_is_not_renewed_is_free_after_its_time_and_not_before(make: Make) -> None:
    one, other = make().leases, make().leases
    loop = asyncio.get_running_loop()
    begun_s = loop.time()
    await one.claim({"x": b""})
    claimed_s = loop.time()
    while (await other.claim({"x": b""}))["x"].node == one.node:
        assert loop.time() - claimed_s < LEASE_MS / 1000 + PATIENCE_S
        await asyncio.sleep(0.02)
    assert loop.time() - begun_s >= LEASE_MS / 1000
