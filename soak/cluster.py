"""Three daemons over one PostgreSQL and one Redis, their clients, and what these are held against."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from marketd.domain.coverage import proven
from marketd.domain.resample import resample
from marketd.domain.timerange import TimeRange, subtract
from marketd.storage.postgres import PostgresStorage
from soak.clients import BASE, DERIVED, Recorder, TradeRecorder
from soak.node import PATIENCE_S, Node
from tests.redis_server import RedisServer

NODES = 3


class Cluster:
    """The nodes, their clients, and what they share."""

    def __init__(self, folder: Path, server: RedisServer, database: str) -> None:
        self.redis = server
        self.database = database
        self.nodes = [Node(folder / f"node{number}.toml") for number in range(NODES)]
        for number in range(NODES):
            (folder / f"node{number}.toml").write_text(
                f'[server]\nport = 0\n[storage]\nurl = "{database}"\n[redis]\nurl = "{server.url}"\n'
                '[providers.sim]\nplugin = "sim"\n',
                encoding="utf-8",
            )
        self.recorders = [
            Recorder(node, timeframe) for node in self.nodes for timeframe in (BASE.timeframe, DERIVED)
        ]
        self.trade_recorders = [TradeRecorder(node) for node in self.nodes]

    async def told(self, recorders: list[Recorder]) -> None:
        """Returns when each of `recorders` was told of a time that is now still to come."""
        now_ms = time.time() * 1000
        async with asyncio.timeout(PATIENCE_S):
            while any(one.next_ms <= now_ms for one in recorders):  # noqa: ASYNC110
                await asyncio.sleep(0.02)

    async def told_trades(self) -> None:
        """Returns when each client was told of every trade that is stored by now."""
        storage = PostgresStorage(self.database)
        await storage.open()
        now_ms = int(time.time() * 1000)
        until_s = time.monotonic() + PATIENCE_S
        try:
            for one in self.trade_recorders:
                while wrong := await self._wrong(storage, one, now_ms):
                    assert time.monotonic() < until_s, wrong
                    await asyncio.sleep(0.1)
        finally:
            await storage.close()

    async def _wrong(self, storage: PostgresStorage, one: TradeRecorder, until_ms: int) -> str:
        """How what a client was told until then differs from what is stored; empty if it does not."""
        span = TimeRange(one.since_ms, until_ms)
        read = await storage.read_ticks(BASE.instrument, span, limit=1_000_000)
        stored, told = set(read.ticks), {trade for trade in one.trades if trade[0] < until_ms}
        unknown = subtract(span, proven(read.coverage))
        if stored == told and not unknown:
            return ""
        return f"not told: {sorted(stored - told)}; not stored: {sorted(told - stored)}; {unknown=}"

    async def check(self) -> int:
        """Holds what each client was told against what is stored; gives the number of bars."""
        storage = PostgresStorage(self.database)
        await storage.open()
        try:
            for one in self.recorders:
                span = TimeRange(one.bars[0][0], one.next_ms)
                stored = (await storage.read(BASE, span, limit=1_000_000)).bars
                expected = stored if one.timeframe == BASE.timeframe else resample(stored, DERIVED)
                assert one.bars == expected, "a client was told something else than what is stored"
        finally:
            await storage.close()
        return sum(len(one.bars) for one in self.recorders)


@asynccontextmanager
async def cluster(folder: Path, database: str) -> AsyncIterator[Cluster]:
    """A cluster that runs until the block ends, over an empty database."""
    async with AsyncExitStack() as stack:
        server = stack.enter_context(RedisServer(folder))
        server.start()
        found = Cluster(folder, server, database)
        for node in found.nodes:
            stack.push_async_callback(node.kill)
        await asyncio.gather(*(node.start() for node in found.nodes))
        yield found
