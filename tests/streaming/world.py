"""Everything behind the stream, with a vendor and clients that a test makes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from listening import Sink
from scripted import INSTRUMENT, MINUTE, StreamingPlugin, feed_of, provider_of

from marketd.backfill.gate import LoadGate
from marketd.clock import ManualClock
from marketd.domain.bar import Bar, Tick
from marketd.domain.instrument import Series
from marketd.domain.timeframe import Timeframe
from marketd.market.history import History
from marketd.market.late import LateTrades
from marketd.market.orchestrator import DataOrchestrator
from marketd.market.tapes import Tapes
from marketd.market.time_bars import TimeBars
from marketd.metrics import Metrics
from marketd.plugins import BarUpdate
from marketd.plugins.feed import Feed, TickFeed
from marketd.storage import Storage
from marketd.streaming.broadcast import BroadcastManager
from marketd.streaming.member import Others
from marketd.streaming.messages import Format
from marketd.streaming.outbox import Outbox
from marketd.streaming.ring import Cursor
from marketd.streaming.service import Joined, SubscriptionService
from marketd.streaming.stream import BarSubscription
from marketd.streaming.tapes import TapeService
from marketd.streaming.worker import LoneWorker
from marketd.supervisor import Supervisor

PATIENCE_S = 20
RING = 5
STALL_MS = 30_000
LATE_MS = 900_000


class Client:
    """A subscriber whose messages the test reads."""

    def __init__(self, broadcast: BroadcastManager) -> None:
        self._sink = Sink()
        self.is_cut = False
        self.outbox = Outbox(
            Format.JSON,
            self._sink,
            broadcast,
            most_bytes=1_000_000,
            patience_s=PATIENCE_S,
            overflow=self._cut,
            metrics=broadcast.metrics,
        )
        self._read: list[dict[str, Any]] = []

    async def next(self, kind: str | None = None) -> dict[str, Any]:
        """The next message, or the next of a type, leaving out those before it."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                while self._read:
                    message = self._read.pop(0)
                    if kind is None or message["type"] == kind:
                        return message
                self._read += await self._sink.take()

    def told(self) -> list[dict[str, Any]]:
        """The messages that have come, without waiting for more."""
        told, self._read = [*self._read, *self._sink.taken()], []
        return told

    async def closed(self, count: int) -> list[Bar]:
        """The next closed bars."""
        bars: list[Bar] = []
        while len(bars) < count:
            message = await self.next("bar")
            if message["closed"]:
                bars.append(tuple(message["bar"]))
        return bars

    def _cut(self) -> None:
        self.is_cut = True


class World:
    """Everything behind the stream, for one scripted provider and a clock that the test moves."""

    def __init__(
        self,
        storage: Storage,
        plugin: StreamingPlugin,
        clock: ManualClock,
        workers: Callable[..., Any] = LoneWorker,
        stall_ms: int = STALL_MS,
        others: Others | None = None,
    ) -> None:
        self.metrics = Metrics()
        self.clock = clock
        self.plugin = plugin
        self.storage = storage
        self.provider = provider_of(plugin)
        history = History(storage, self.metrics)
        self.orchestrator = DataOrchestrator(history, request_timeout_ms=2_000, depth_ms=30 * 86_400_000)
        self.supervisor = Supervisor(self.metrics)
        self.broadcast = BroadcastManager(self.metrics, most_channels=100)
        tapes = Tapes(storage, self.metrics)
        time_bars = TimeBars(tapes, late_ms=LATE_MS)
        self.feed: Feed = feed_of(self.provider)
        if MINUTE in self.provider.made_of_ticks(INSTRUMENT.symbol):
            self.feed = time_bars.feed(self.provider, INSTRUMENT, MINUTE)
            late = LateTrades(time_bars, history, self.metrics, late_ms=LATE_MS)
            tapes.watch(late.came)
            self.supervisor.run("late", late.run)
        self.tapes = TapeService(
            tapes=tapes,
            bars=self,
            broadcast=self.broadcast,
            supervisor=self.supervisor,
            metrics=self.metrics,
            linger_ms=20,
            stall_ms=stall_ms,
            ring=RING,
            request_timeout_ms=2_000,
            others=others,
        )
        self.gate = LoadGate(self.metrics)
        self.service = SubscriptionService(
            history=self.orchestrator,
            storage=storage,
            broadcast=self.broadcast,
            supervisor=self.supervisor,
            metrics=self.metrics,
            linger_ms=20,
            workers=partial(
                workers,
                history=self.orchestrator,
                storage=storage,
                tapes=self.tapes,
                urgent=self.gate.urgent,
                stall_ms=stall_ms,
            ),
            ring=RING,
        )

    async def bars_since(self, feed: TickFeed, since_ms: int) -> None:
        """This provider has no bars."""

    async def quiet_until(self, feed: TickFeed, since_ms: int, last: Tick) -> int:
        return 0

    def client(self) -> Client:
        return Client(self.broadcast)

    def subscribe(
        self, client: Client, timeframe: Timeframe = MINUTE, cursor: Cursor | None = None
    ) -> tuple[BarSubscription[Series], Joined]:
        subscription = BarSubscription(Series(INSTRUMENT, timeframe), client.outbox)
        return subscription, self.service.subscribe(self.feed, subscription, cursor)

    async def join(self, client: Client, timeframe: Timeframe, since: int) -> BarSubscription[Series]:
        subscription, joined = self.subscribe(client, timeframe)
        await self.service.catch_up(self.feed, subscription, since, joined)
        subscription.go_live()
        return subscription

    def says(self, bar: Bar, *, closed: bool) -> None:
        """The provider's stream says `bar`."""
        self.plugin.updates.put_nowait(BarUpdate(bar, closed))

    async def rest(self, timeframe: Timeframe, since: int) -> Sequence[Bar]:
        found = await self.orchestrator.bars(
            self.feed, timeframe, since=since, before=None, limit=10_000
        )
        return found.bars
