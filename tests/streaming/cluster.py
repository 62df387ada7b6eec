"""Nodes over one database, one vendor and one clock, whose ways to each other a test may cut."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from functools import partial
from typing import Any, TypeVar

from scripted import (
    MINUTE,
    START,
    M,
    ScriptedPlugin,
    StreamingPlugin,
    TickingPlugin,
    bar,
    scripted,
)
from taped_world import TapeWorld
from way import Way
from world import Client, World

from marketd.bus import BusAway, Held
from marketd.bus.base import LEASE_MS
from marketd.bus.local import LocalBus, LocalHub, LocalLeases
from marketd.clock import ManualClock
from marketd.domain.bar import Bar, Tick
from marketd.domain.timeframe import Timeframe
from marketd.metrics import Metrics
from marketd.plugins import BarUpdate
from marketd.storage.postgres import PostgresStorage
from marketd.streaming.member import Others
from marketd.streaming.node_worker import NodeWorker
from marketd.streaming.nodes import Nodes

HISTORY = [bar(minute) for minute in range(10)]
NOW = START + 10 * M + 20_000
PATIENCE_S = 20


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

    def hear(self, channel: str, message: bytes) -> None:
        if not self._wire.is_cut:
            super().hear(channel, message)


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
    """A node's way to its database and to the others; `world` is what it follows there."""

    plugin: Any
    world: World | TapeWorld
    client: Client

    def __init__(self, cluster: Cluster, storage: PostgresStorage) -> None:
        self.name = f"node {len(cluster.nodes)}"
        self.wire = Wire()
        self.talk = Wire()
        self.leases = Leased(cluster.hub, self.name, self.wire)
        self.storage = storage
        self.metrics = Metrics()
        self.nodes = Nodes(self.leases, self.storage, self.metrics, now_s=lambda: cluster.now_s)
        self.bus = Bus(cluster.hub, self.talk)
        self.others = Others(self.nodes, self.bus, storage, cluster.clock, self.metrics)

    async def round(self) -> None:
        await self.nodes.round()

    @property
    def leads(self) -> bool:
        """Whether its plugin is listened to."""
        return bool(self.plugin.listeners)

    @property
    def hears(self) -> bool:
        """Whether it listens to what another node says as the leader."""
        return bool(self.bus._heard)

    async def died(self) -> None:
        """It is gone, and gives nothing back."""
        self.wire.is_cut = self.talk.is_cut = True
        await self.world.supervisor.stop()

    async def close(self) -> None:
        await self.world.supervisor.stop()
        await self.storage.close()


class BarNode(Node):
    """One node with one client of its one-minute bars."""

    world: World

    def __init__(
        self,
        cluster: Cluster,
        storage: PostgresStorage,
        cls: type[ScriptedPlugin] = Listened,
        timeframes: Sequence[Timeframe] = (MINUTE,),
    ) -> None:
        super().__init__(cluster, storage)
        self.plugin = scripted(HISTORY, now_ms=NOW, timeframes=timeframes, cls=cls, clock=cluster.clock)
        self.plugin.bars = cluster.bars
        workers = partial(NodeWorker, others=self.others)
        self.world = World(storage, self.plugin, cluster.clock, workers, others=self.others)
        self.client = self.world.client()

    async def join(self) -> None:
        """Its client joins, live, and the node holds its first round with that."""
        self.world.subscribe(self.client)[0].go_live()
        await until(lambda: bool(self.nodes._members))
        await self.round()


class TapeNode(Node):
    """One node with one client of its trades."""

    world: TapeWorld

    def __init__(self, cluster: Cluster, storage: PostgresStorage, cls: type[TickingPlugin]) -> None:
        super().__init__(cluster, storage)
        self.world = TapeWorld(storage, cls, clock=cluster.clock, others=self.others)
        self.plugin = self.world.plugin
        self.plugin.past = cluster.past
        # As in a daemon: who hears of changes notices that the database says nothing.
        storage.listen(lambda change: None)
        self.client = Client(self.world.broadcast)

    async def join(self, since: int | None = None) -> None:
        """Its client joins, and the node holds its first round with that."""
        await self.world.join(self.client, since)
        await until(lambda: bool(self.nodes._members))
        await self.round()

    @property
    def leads(self) -> bool:
        return bool(self.plugin.streams > self.plugin.endings)


N = TypeVar("N", BarNode, TapeNode)


class Cluster:
    """Nodes over one database, one vendor and one clock; leases have a clock of their own."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.now_s = 1_000.0
        self.hub = LocalHub(lambda: self.now_s)
        self.clock = ManualClock(NOW)
        self.bars: list[Bar] = list(HISTORY)
        self.past: list[Tick] = []
        self.nodes: list[Node] = []

    async def node(
        self,
        cls: type[ScriptedPlugin] = Listened,
        timeframes: Sequence[Timeframe] = (MINUTE,),
        way: Way | None = None,
    ) -> BarNode:
        """One more, perhaps with a way of its own to the database."""
        node = BarNode(self, self._storage(way), cls, timeframes)
        await self._open(node)
        return node

    async def tape_node(self, cls: type[TickingPlugin], way: Way | None = None) -> TapeNode:
        """The same with a client of trades."""
        node = TapeNode(self, self._storage(way), cls)
        await self._open(node)
        return node

    def _storage(self, way: Way | None) -> PostgresStorage:
        return PostgresStorage(self.url if way is None else way.url, connections=2)

    async def _open(self, node: Node) -> None:
        self.nodes.append(node)
        await node.storage.open()

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

    def trades(self, *ticks: Tick) -> None:
        """There are trades at the vendor, whose stream says so to whoever listens."""
        self.past[:] = sorted([*self.past, *ticks])
        self.clock.set(max(self.clock.now_ms(), ticks[-1][0]))
        for node in self.nodes:
            if node.leads:
                node.plugin.batches.put_nowait(ticks)

    def lease_expires(self) -> None:
        self.now_s += LEASE_MS / 1000 + 0.1


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not holds():  # noqa: ASYNC110 - several parts have to agree
            await asyncio.sleep(0.01)


async def joined(leader: N, follower: N) -> tuple[N, N]:
    """Two nodes whose clients have joined, once the first leads and the other hears it."""
    for node in (leader, follower):
        await node.join()
    await until(lambda: leader.leads and follower.hears)
    return leader, follower
