"""Several nodes over one database: one follows the provider, and no client of any misses or repeats."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import aclosing
from functools import partial
from itertools import count
from typing import cast

import asyncpg
import pytest
from conftest import Client, World
from scripted import START, M, StreamingPlugin, bar, scripted
from servers.postgres import PostgresServer

from marketd.bus import BusAway, Held
from marketd.bus.base import LEASE_MS, Heard
from marketd.bus.local import LocalBus, LocalHub, LocalLeases
from marketd.clock import ManualClock
from marketd.domain.bar import Bar
from marketd.domain.timeframe import Timeframe
from marketd.metrics import Metrics
from marketd.plugins import BarUpdate
from marketd.storage.postgres import PostgresStorage
from marketd.streaming.member import NodeWorker, Others
from marketd.streaming.nodes import Nodes

HISTORY = [bar(minute) for minute in range(10)]
NOW = START + 10 * M + 20_000
FIVE = Timeframe.parse("5m")
NUMBERS = count()
PATIENCE_S = 10


class Wire:
    """What lies between a node and the others; it may be cut."""

    is_cut = False


class Bus(LocalBus):
    """A bus that tells and hears nothing while its wire is cut."""

    def __init__(self, hub: LocalHub, wire: Wire) -> None:
        super().__init__(hub)
        self._wire = wire

    def publish(self, channel: str, message: bytes) -> None:
        if not self._wire.is_cut:
            super().publish(channel, message)

    def subscribe(self, channel: str, heard: Heard) -> None:
        super().subscribe(channel, lambda message: None if self._wire.is_cut else heard(message))


class Leased(LocalLeases):
    """Leases that nobody can be asked for while the wire is cut."""

    def __init__(self, hub: LocalHub, node: str, wire: Wire) -> None:
        super().__init__(hub, node)
        self._wire = wire

    async def claim(self, wanted: Mapping[str, bytes]) -> dict[str, Held]:
        self._check()
        return await super().claim(wanted)

    async def release(self, names: Iterable[str]) -> None:
        self._check()
        await super().release(names)

    def _check(self) -> None:
        if self._wire.is_cut:
            raise BusAway("cut")


class Listened(StreamingPlugin):
    """A plugin that knows whether its stream is listened to."""

    listeners = 0

    async def stream_bars(self, symbol: str, timeframe: Timeframe) -> AsyncIterator[BarUpdate]:
        self.listeners += 1
        try:
            async with aclosing(super().stream_bars(symbol, timeframe)) as updates:
                async for update in updates:
                    yield update
        finally:
            self.listeners -= 1


class Node:
    """One node with one client of its one-minute bars."""

    def __init__(self, cluster: Cluster, name: str) -> None:
        self.name = name
        self.wire = Wire()
        self.talk = Wire()
        self.leases = Leased(cluster.hub, name, self.wire)
        self.storage = PostgresStorage(cluster.url, connections=2)
        self.nodes = Nodes(self.leases, self.storage, Metrics(), now_s=lambda: cluster.now_s)
        others = Others(self.nodes, Bus(cluster.hub, self.talk), cluster.clock, self.nodes._metrics)
        plugin = scripted(HISTORY, now_ms=NOW, cls=Listened, clock=cluster.clock)
        plugin.bars = cluster.bars
        self.plugin = cast("Listened", plugin)
        self.world = World(self.storage, self.plugin, cluster.clock, partial(NodeWorker, others=others))
        self.client: Client = self.world.client()

    async def open(self) -> None:
        await self.storage.open()

    def join(self) -> None:
        """Its client joins, live."""
        self.world.subscribe(self.client)[0].go_live()

    async def round(self) -> None:
        await self.nodes.round()

    @property
    def leads(self) -> bool:
        """Whether its plugin is listened to."""
        return self.plugin.listeners > 0

    async def died(self) -> None:
        """It is gone, and gives nothing back."""
        self.wire.is_cut = self.talk.is_cut = True
        await self.world.supervisor.stop()

    async def close(self) -> None:
        await self.world.supervisor.stop()
        await self.storage.close()


class Cluster:
    """Nodes over one database, one vendor and one clock; leases have a clock of their own."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.now_s = 1_000.0
        self.hub = LocalHub(lambda: self.now_s)
        self.clock = ManualClock(NOW)
        self.bars: list[Bar] = list(HISTORY)
        self.nodes: list[Node] = []

    async def node(self) -> Node:
        node = Node(self, f"node {len(self.nodes)}")
        self.nodes.append(node)
        await node.open()
        return node

    async def round(self) -> None:
        for node in self.nodes:
            await node.round()

    def happens(self, minute: int) -> None:
        """A minute passes at the vendor, whose stream says so to whoever listens."""
        self.bars.append(bar(minute))
        self.clock.set(START + (minute + 1) * M + 1)
        for node in self.nodes:
            if node.leads:
                node.plugin.updates.put_nowait(BarUpdate(bar(minute), True))

    def lease_expires(self) -> None:
        self.now_s += LEASE_MS / 1000 + 0.1


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not holds():  # noqa: ASYNC110 - several parts have to agree
            await asyncio.sleep(0.01)


@pytest.fixture
async def cluster(postgres_server: PostgresServer) -> AsyncIterator[Cluster]:
    """Nodes over a new, empty database."""
    name = f"nodes_{next(NUMBERS)}"
    connection = await asyncpg.connect(postgres_server.url())
    await connection.execute(f"CREATE DATABASE {name}")
    await connection.close()
    cluster = Cluster(postgres_server.url(name))
    yield cluster
    for node in cluster.nodes:
        await node.close()


async def two(cluster: Cluster) -> tuple[Node, Node]:
    """Two nodes with a client each; the first leads."""
    leader, follower = await cluster.node(), await cluster.node()
    for node in (leader, follower):
        node.join()
        await until(lambda node=node: bool(node.nodes._members))
        await node.round()
    await until(lambda: leader.leads)
    return leader, follower


async def test_one_node_listens_to_the_provider_and_the_clients_of_all_are_told(
    cluster: Cluster,
) -> None:
    leader, follower = await two(cluster)
    for minute in (10, 11):
        cluster.happens(minute)
        for node in (leader, follower):
            assert await node.client.closed(1) == [bar(minute)]
    leader.world.says(bar(12, close=50.0), closed=False)
    for node in (leader, follower):
        forming = await node.client.next("bar")
        assert (tuple(forming["bar"]), forming["closed"]) == (bar(12, close=50.0), False)
    assert (leader.plugin.streams, follower.plugin.streams) == (1, 0)


async def test_derived_bars_are_the_same_on_every_node(cluster: Cluster) -> None:
    leader, follower = await two(cluster)
    clients = [node.world.client() for node in (leader, follower)]
    for node, client in zip((leader, follower), clients, strict=True):
        await node.world.join(client, FIVE, START + 5 * M)
    for minute in range(10, 15):
        cluster.happens(minute)
    first, second = [await client.closed(1) for client in clients]
    assert first == second
    assert first[0][0] == START + 10 * M


async def test_when_the_leader_dies_another_leads_and_nobody_misses_or_repeats_a_bar(
    cluster: Cluster,
) -> None:
    leader, follower = await two(cluster)
    cluster.happens(10)
    assert await follower.client.closed(1) == [bar(10)]
    await leader.died()
    cluster.happens(11)
    await follower.round()
    assert not follower.leads, "the lease has not expired"
    cluster.lease_expires()
    await follower.round()
    cluster.happens(12)
    assert await follower.client.closed(2) == [bar(11), bar(12)]


async def test_what_the_leader_stored_and_could_not_tell_any_more_is_told(cluster: Cluster) -> None:
    leader, follower = await two(cluster)
    leader.talk.is_cut = True
    cluster.happens(10)
    assert await leader.client.closed(1) == [bar(10)]
    await leader.died()
    cluster.lease_expires()
    await follower.round()
    assert await follower.client.closed(1) == [bar(10)]
    # It was read: the vendor was not asked for it again.
    assert not any(span.start_ms <= bar(10)[0] < span.end_ms for span in follower.plugin.calls)


async def test_a_word_that_is_lost_is_made_up_for_with_the_next_round(cluster: Cluster) -> None:
    leader, follower = await two(cluster)
    follower.talk.is_cut = True
    cluster.happens(10)
    assert await leader.client.closed(1) == [bar(10)]
    await cluster.round()
    assert await follower.client.closed(1) == [bar(10)]
    follower.talk.is_cut = False
    cluster.happens(11)
    assert await follower.client.closed(1) == [bar(11)]


async def test_a_word_that_was_missed_is_made_up_for_with_the_next_word(cluster: Cluster) -> None:
    leader, follower = await two(cluster)
    follower.talk.is_cut = True
    cluster.happens(10)
    assert await leader.client.closed(1) == [bar(10)]
    follower.talk.is_cut = False
    cluster.happens(11)
    assert await follower.client.closed(2) == [bar(10), bar(11)]


async def test_a_leader_that_was_paused_writes_nothing_and_follows(cluster: Cluster) -> None:
    leader, follower = await two(cluster)
    cluster.happens(10)
    await leader.client.closed(1)
    # It is paused: nothing is renewed, and another leads.
    cluster.lease_expires()
    await follower.round()
    await until(lambda: follower.leads)
    # It wakes up, and does not know yet. What its stream said before it was paused is wrong by now.
    cluster.clock.set(START + 12 * M + 1)
    cluster.bars.append(bar(11))
    leader.world.says(bar(11, close=50.0), closed=True)
    await until(lambda: not leader.leads)
    follower.world.says(bar(11), closed=True)
    assert await follower.client.closed(2) == [bar(10), bar(11)]
    for _ in range(2):  # with the second it learns what the new leader noted with the first
        await cluster.round()
    assert await leader.client.closed(1) == [bar(11)]
    assert not leader.leads


async def test_a_lease_that_was_forgotten_changes_nothing_for_clients(cluster: Cluster) -> None:
    leader, follower = await two(cluster)
    for minute, first in ((10, follower), (11, leader), (12, leader)):
        cluster.hub.held.clear()
        await first.round()
        await cluster.round()
        await until(lambda first=first: first.leads)
        cluster.happens(minute)
        for node in (leader, follower):
            assert await node.client.closed(1) == [bar(minute)]


async def test_without_the_bus_each_follows_by_itself_and_they_return_by_themselves(
    cluster: Cluster,
) -> None:
    leader, follower = await two(cluster)
    both = (leader, follower)
    for node in both:
        node.wire.is_cut = node.talk.is_cut = True
    await cluster.round()
    assert not any(node.nodes.fault for node in both), "a moment is nothing"
    cluster.lease_expires()
    await cluster.round()
    await until(lambda: follower.leads)
    assert all("Redis is away" in node.nodes.fault for node in both)
    assert all(node.nodes._metrics.bus_up._value.get() == 0 for node in both)
    await until(lambda: leader.plugin.streams == 2 and leader.leads)
    cluster.happens(10)
    for node in both:
        assert await node.client.closed(1) == [bar(10)]
        node.wire.is_cut = node.talk.is_cut = False
    await cluster.round()
    await until(lambda: not follower.leads)
    assert not any(node.nodes.fault for node in both)
    assert all(node.nodes._metrics.bus_up._value.get() == 1 for node in both)
    await until(lambda: leader.plugin.streams == 3 and leader.leads)
    cluster.happens(11)
    for node in both:
        assert await node.client.closed(1) == [bar(11)]


async def test_a_node_that_starts_without_the_bus_does_not_wait_for_it(cluster: Cluster) -> None:
    node = await cluster.node()
    node.wire.is_cut = True
    node.join()
    await until(lambda: bool(node.nodes._members))
    await node.round()
    await until(lambda: node.leads)
    cluster.happens(10)
    assert await node.client.closed(1) == [bar(10)]


async def test_a_node_whose_last_client_has_left_lets_another_lead_at_once(cluster: Cluster) -> None:
    leader, follower = await two(cluster)
    await leader.world.supervisor.stop()
    await cluster.round()
    await until(lambda: follower.leads)
    cluster.happens(10)
    assert await follower.client.closed(1) == [bar(10)]


async def test_a_node_that_cannot_write_lets_another_lead(cluster: Cluster) -> None:
    leader, follower = await two(cluster)
    leader.storage.fault = "The database cannot be reached."
    await cluster.round()
    assert leader.leads, "a moment is nothing"
    cluster.lease_expires()
    await cluster.round()
    await until(lambda: follower.leads)
    told = await leader.client.next("status")
    assert (told["state"], told["message"]) == ("down", "The database cannot be reached.")


async def test_more_than_fits_into_a_word_is_read_from_the_store(cluster: Cluster) -> None:
    leader, follower = await two(cluster)
    cluster.bars += [bar(minute) for minute in range(10, 400)]
    cluster.happens(400)
    expected = [bar(minute) for minute in range(10, 401)]
    for node in (leader, follower):
        assert await node.client.closed(len(expected)) == expected
    assert not [span for span in follower.plugin.calls if span.end_ms > START + 11 * M]


async def test_the_health_of_the_feed_is_told_on_every_node(cluster: Cluster) -> None:
    leader, follower = await two(cluster)
    leader.plugin.updates.put_nowait(RuntimeError("?"))
    for node in (leader, follower):
        assert (await node.client.next("status"))["state"] == "down"
    await until(lambda: leader.plugin.streams == 2 and leader.leads)
    cluster.happens(10)
    for node in (leader, follower):
        assert (await node.client.next("status"))["state"] == "live"
