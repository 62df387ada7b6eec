"""Three daemons over one PostgreSQL and one Redis, to which bad things happen while clients listen.

What each client was told is held against the store at the end: every bar, in order, once, and every
trade, once.
"""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import redis

from marketd.domain.bar import Bar, Tick
from marketd.domain.coverage import proven
from marketd.domain.instrument import Instrument, Series
from marketd.domain.resample import resample
from marketd.domain.timeframe import Timeframe
from marketd.domain.timerange import TimeRange, subtract
from marketd.storage.postgres import PostgresStorage
from tests.redis_server import RedisServer

NODES = 3
PATIENCE_S = 60
# How long a bar may take to the clients of a node that nothing has happened to, whatever has to others.
TAKEOVER_S = 6
_NAMES = {"market": "crypto", "provider": "sim"}
_BASE = Series(Instrument("crypto", "sim", "BTC/USD"), Timeframe.parse("1s"))
# How long a node that was away may take to tell what it missed.
_RECOVERY_S = 3
# How much longer trades may take that nobody has heard: they are asked for when they are settled.
_SETTLING_S = 6
_DERIVED = Timeframe.parse("5s")
# So much is asked for again by who listens to trades and comes back: what came late is in it.
_OVERLAP_MS = 60_000


class Node:
    """One daemon, which may die and be born again."""

    def __init__(self, config: Path) -> None:
        self._config = config
        self._process: asyncio.subprocess.Process | None = None
        self._is_stopped = False
        self.url = ""
        # Whether it has been running, without a pause, for all of this round.
        self.is_well = False
        self.resumed_s = 0.0

    async def start(self) -> None:
        """Returns when it answers."""
        with self._config.with_suffix(".log").open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "marketd", "serve", "-c", str(self._config)),
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                env={key: value for key, value in os.environ.items() if not key.startswith("MARKETD_")},
            )
        assert self._process.stdout is not None
        async with asyncio.timeout(PATIENCE_S):
            while not self.url:
                line = (await self._process.stdout.readline()).decode()
                assert line, f"a node ended by itself, see {self._config.with_suffix('.log')}"
                self.url = next((word for word in line.split() if word.startswith("http://")), "")
        self.resumed_s = time.time()

    async def kill(self) -> None:
        """kill -9."""
        process, self._process = self._process, None
        self.url = ""
        if process is not None:
            process.kill()
            await process.communicate()

    async def stop_for(self, for_s: float) -> None:
        """Keeps it from running for a while; it does not learn of it."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        await asyncio.sleep(for_s)
        self._process.send_signal(signal.SIGCONT)
        self.resumed_s = time.time()

    async def leads(self) -> bool:
        """Whether it follows the series, or its trades, for all."""
        async with aiohttp.ClientSession() as session, session.get(f"{self.url}/metrics") as response:
            return "\nmarketd_stream_leading 0.0" not in await response.text()


class Client(ABC):
    """A client of one node, over as many connections as that takes."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.latest_s = 0.0
        """The longest that something took from its time to here, while the node was well."""

    @abstractmethod
    def _stream(self) -> dict[str, Any]:
        """What to subscribe to, and from when on."""

    @abstractmethod
    def _take(self, message: dict[str, Any]) -> None: ...

    async def run(self) -> None:
        """Listens until cancelled."""
        async with aiohttp.ClientSession() as session:
            while True:
                try:
                    if self.node.url:
                        await self._listen(session)
                except (aiohttp.ClientError, OSError):
                    pass  # its node has died
                await asyncio.sleep(0.1)

    async def _listen(self, session: aiohttp.ClientSession) -> None:
        async with session.ws_connect(f"{self.node.url}/api/v1/stream") as socket:
            symbols = [_BASE.instrument.symbol]
            command = _NAMES | {"type": "subscribe", "id": "1", "symbols": symbols}
            await socket.send_json(command | self._stream())
            async for frame in socket:
                if frame.type is aiohttp.WSMsgType.TEXT:
                    self._take(frame.json())


class Recorder(Client):
    """Writes down every closed bar."""

    def __init__(self, node: Node, timeframe: Timeframe) -> None:
        super().__init__(node)
        self.timeframe = timeframe
        self.bars: list[Bar] = []

    @property
    def next_ms(self) -> int:
        """The first time of which nothing was told yet."""
        return self.timeframe.end(self.bars[-1][0]) if self.bars else 0

    def _stream(self) -> dict[str, Any]:
        since = {"since": self.next_ms} if self.bars else {}
        return {"timeframe": str(self.timeframe), **since}

    def _take(self, message: dict[str, Any]) -> None:
        match message["type"]:
            case "snapshot":
                assert message["complete"], f"a part of history is missing: {message}"
                self._record(message["bars"])
            case "bar" if message["closed"]:
                assert message["rev"] == 0, f"a bar has changed: {message}"
                self._record([message["bar"]])
                if self.node.is_well:
                    late_s = time.time() - self.timeframe.end(message["bar"][0]) / 1000
                    self.latest_s = max(self.latest_s, late_s)
            case "gap" | "error":
                raise AssertionError(message)

    def _record(self, rows: list[list[Any]]) -> None:
        for row in rows:
            assert row[0] >= self.next_ms, f"{row} was told after {self.bars[-1]}"
            self.bars.append((row[0], *row[1:]))  # type: ignore[arg-type]


class TradeRecorder(Client):
    """Writes down every trade."""

    def __init__(self, node: Node) -> None:
        super().__init__(node)
        self.since_ms = int(time.time() * 1000)
        self.trades: set[Tick] = set()
        # What this connection has told; another begins some time before the end of the one before.
        self._told: set[Tick] = set()

    def _stream(self) -> dict[str, Any]:
        self._told = set()
        newest_ms = max((trade[0] for trade in self.trades), default=0)
        return {"channel": "ticks", "since": max(self.since_ms, newest_ms - _OVERLAP_MS)}

    def _take(self, message: dict[str, Any]) -> None:
        match message["type"]:
            case "snapshot" | "tick":
                trades = {(row[0], *row[1:]) for row in message["ticks"]}
                assert len(trades) == len(message["ticks"]), f"a trade was told twice: {message}"
                assert not trades & self._told, f"told again: {trades & self._told}"
                self._told |= trades
                self.trades |= trades
                if self.node.is_well and message["type"] == "tick":
                    self.latest_s = max(self.latest_s, time.time() - message["ticks"][0][0] / 1000)
            case "gap" | "error":
                raise AssertionError(message)


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
            Recorder(node, timeframe) for node in self.nodes for timeframe in (_BASE.timeframe, _DERIVED)
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
        read = await storage.read_ticks(_BASE.instrument, span, limit=1_000_000)
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
                stored = (await storage.read(_BASE, span, limit=1_000_000)).bars
                expected = stored if one.timeframe == _BASE.timeframe else resample(stored, _DERIVED)
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


class Trouble:
    """Makes bad things happen, one a round."""

    def __init__(self, nodes: Cluster, chance: random.Random) -> None:
        self._cluster = nodes
        self._chance = chance
        self._births: set[asyncio.Task[None]] = set()
        # What is still to happen before all of it happens again.
        self._kinds: list[Callable[[], Awaitable[str]]] = []

    async def round(self) -> str:
        """One bad thing, after which every client that can is told of bars again; says what it was."""
        for one in self._cluster.recorders:
            one.node.is_well = one.node.url != "" and time.time() - one.node.resumed_s > _RECOVERY_S
        if not self._kinds:
            twice, once = (
                (self._kill, self._stop),
                (self._restart_redis, self._freeze_redis, self._flush),
            )
            self._kinds = [*twice, *twice, *once]
            self._chance.shuffle(self._kinds)
        said = await self._kinds.pop()()
        well = [one for one in self._cluster.recorders if one.node.is_well]
        await self._cluster.told([one for one in well if one.timeframe == _BASE.timeframe])
        return said

    async def end(self) -> None:
        """Lets all that has died come back, and every client hear what it missed."""
        await asyncio.gather(*self._births)
        await self._cluster.told(self._cluster.recorders)

    async def _victim(self) -> Node:
        """A node, and the leader in most cases. All of them run by then."""
        await asyncio.gather(*self._births)
        if self._chance.random() < 0.3:
            return self._chance.choice(self._cluster.nodes)
        leads = await asyncio.gather(*(node.leads() for node in self._cluster.nodes))
        led = [node for node, is_leader in zip(self._cluster.nodes, leads, strict=True) if is_leader]
        return self._chance.choice(led or self._cluster.nodes)

    async def _kill(self) -> str:
        victim = await self._victim()
        victim.is_well = False
        await victim.kill()
        birth = asyncio.create_task(victim.start())
        self._births.add(birth)
        birth.add_done_callback(self._births.discard)
        return "killed a node"

    async def _stop(self) -> str:
        victim = await self._victim()
        victim.is_well = False
        for_s = self._chance.uniform(0.5, 5)
        await victim.stop_for(for_s)
        return f"stopped a node for {for_s:.1f} s"

    async def _restart_redis(self) -> str:
        for_s = self._chance.choice((0.0, 1.0, 4.5))
        self._cluster.redis.stop()
        await asyncio.sleep(for_s)
        self._cluster.redis.start()
        return f"restarted Redis after {for_s:.1f} s"

    async def _freeze_redis(self) -> str:
        for_s = self._chance.uniform(0.5, 4.5)
        self._cluster.redis.freeze()
        await asyncio.sleep(for_s)
        self._cluster.redis.thaw()
        return f"froze Redis for {for_s:.1f} s"

    async def _flush(self) -> str:
        with redis.Redis.from_url(self._cluster.redis.url) as client:
            client.flushall()
        return "emptied Redis"


async def rounds(
    folder: Path,
    database: str,
    number: int,
    chance: random.Random,
    say: Callable[[str], None],
    *,
    most_late_s: float = TAKEOVER_S,
) -> int:
    """So many rounds over an empty database; gives the number of bars that clients were told.

    Raises AssertionError if one was told anything else than what is stored, or a bar later than
    `most_late_s` at a node to which nothing had happened. What is said after each round tells how late.
    """
    async with cluster(folder, database) as nodes, asyncio.TaskGroup() as group:
        clients = [*nodes.recorders, *nodes.trade_recorders]
        listening = [group.create_task(one.run()) for one in clients]
        await nodes.told(nodes.recorders)
        trouble = Trouble(nodes, chance)
        for done in range(1, number + 1):
            said = await trouble.round()
            latest_s = max(one.latest_s for one in nodes.recorders)
            trades_s = max(one.latest_s for one in nodes.trade_recorders)
            say(
                f"{done:,} of {number:,}: {said}; {latest_s:.1f} s late at most, trades {trades_s:.1f} s"
            )
            assert latest_s <= most_late_s
            assert trades_s <= most_late_s + _SETTLING_S
        await trouble.end()
        await nodes.told_trades()
        for task in listening:
            task.cancel()
        return await nodes.check()
