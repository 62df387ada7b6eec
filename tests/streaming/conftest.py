from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from cluster import Cluster
from scripted import StreamingPlugin, TickingPlugin, scripted
from servers.postgres import PostgresServer
from taped_world import MakeTaped, TapeWorld
from world import World

from marketd.clock import ManualClock
from marketd.domain.bar import Bar
from marketd.storage import Storage, StoredBars
from marketd.storage.sqlite import SQLiteStorage

NUMBERS = count()


@pytest.fixture
def storage(tmp_path: Path) -> Storage:
    """The store behind the stream, not yet open."""
    return SQLiteStorage(tmp_path / "bars.db")


@pytest.fixture
def reads(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """For each read of the store, how many were under way then."""
    read, under_way, seen = storage.read, [0], []

    async def counted(*args: Any, **options: Any) -> StoredBars:
        under_way[0] += 1
        seen.append(under_way[0])
        try:
            return await read(*args, **options)
        finally:
            under_way[0] -= 1

    monkeypatch.setattr(storage, "read", counted)
    return seen


@pytest.fixture
async def make_world(storage: Storage) -> AsyncIterator[Callable[..., Any]]:
    await storage.open()
    worlds: list[World] = []

    def make(
        bars: Sequence[Bar], now_ms: int, cls: type[Any] = StreamingPlugin, **options: Any
    ) -> World:
        clock = ManualClock(now_ms)
        plugin = scripted(bars, now_ms=now_ms, cls=cls, clock=clock, **options)
        worlds.append(World(storage, plugin, clock))  # type: ignore[arg-type]
        return worlds[-1]

    yield make
    for world in worlds:
        await world.supervisor.stop()
    await storage.close()


@pytest.fixture
async def make_taped(storage: Storage) -> AsyncIterator[MakeTaped]:
    await storage.open()
    worlds: list[TapeWorld] = []

    def make(cls: type[Any] = TickingPlugin) -> TapeWorld:
        worlds.append(TapeWorld(storage, cls))
        return worlds[-1]

    yield make
    for world in worlds:
        await world.supervisor.stop()
    await storage.close()


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
