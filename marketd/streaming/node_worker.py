"""A base series among several nodes: its bars as the leader tells them, and as they are told on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace

from marketd.domain.bar import Bar
from marketd.plugins.feed import Feed
from marketd.storage import Storage
from marketd.streaming.bulletin import Bulletin
from marketd.streaming.events import BarEvent, Event, GapEvent, HealthEvent, Progress
from marketd.streaming.front import Front
from marketd.streaming.member import Member, Others
from marketd.streaming.needs import History, Urgent
from marketd.streaming.tapes import TapeService
from marketd.streaming.worker import SeriesWorker

# The most bars in one word; more are read from the store.
_MOST_BARS = 100


class NodeWorker(Member[Bulletin]):
    """Follows `feed` with the help of other nodes. `emit` is called in order and must not block."""

    front: Front

    def __init__(
        self,
        feed: Feed,
        emit: Callable[[Event], None],
        *,
        others: Others,
        history: History,
        storage: Storage,
        tapes: TapeService,
        urgent: Urgent,
        stall_ms: int,
    ) -> None:
        super().__init__(feed.series, others)
        self.front = Front(feed, storage=storage, history=history, emit=self._emit)
        self._feed = feed
        self._tell_clients = emit
        self._history = history
        self._tapes = tapes
        self._urgent = urgent
        self._stall_ms = stall_ms
        # While this node leads: up to where it has told the others, and what it is about to tell them.
        self._told_ms = 0
        self._bars: list[Bar] = []
        self._has_gap = False

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(self.front.run())
            await self.front.known()
            await super()._run()

    async def _work(self, fence: int | None) -> None:
        worker = SeriesWorker(
            replace(self._feed, fence=fence),
            self.front,
            history=self._history,
            storage=self._storage,
            tapes=self._tapes,
            urgent=self._urgent,
            stall_ms=self._stall_ms,
        )
        await worker.follow()

    async def _begin_to_lead(self) -> None:
        self._told_ms = self.front.next_ms
        self._bars, self._has_gap = [], False

    async def _take(self, word: Bulletin) -> None:
        front = self.front
        if word.bars is None or word.from_ms > front.next_ms:
            await front.catch_up(self._feed, word.next_ms)
        if word.bars is not None and word.next_ms > front.next_ms:
            new = [bar for bar in word.bars if bar[0] >= front.next_ms]
            front.close(new, word.next_ms)
            self._metrics.bus_lag.observe(max(0, self._clock.now_ms() - word.sent_ms) / 1000)
        if word.forming is not None:
            front.form(word.forming)
        front.tell(word.state, word.message)

    def _word(self) -> Bulletin:
        next_ms = self.front.next_ms
        return self._bulletin(next_ms, next_ms, [])

    def _unpack(self, data: bytes) -> Bulletin | None:
        return Bulletin.unpack(data)

    def _emit(self, event: Event) -> None:
        self._tell_clients(event)
        if self._leads:
            self._tell_nodes(event)

    def _tell_nodes(self, event: Event) -> None:
        """What is revised they find in the store by themselves."""
        match event:
            case BarEvent(bar, closed=False):
                self._publish(self._bulletin(self._told_ms, self._told_ms, [], bar))
            case BarEvent(bar, rev=0):
                self._bars.append(bar)
            case GapEvent():
                self._has_gap = True
            case Progress(next_ms):
                is_short = not self._has_gap and len(self._bars) <= _MOST_BARS
                self._publish(self._bulletin(self._told_ms, next_ms, self._bars if is_short else None))
                self._told_ms = next_ms
                self._bars, self._has_gap = [], False
            case HealthEvent():
                self._publish(self._bulletin(self._told_ms, self._told_ms, []))

    def _bulletin(
        self, from_ms: int, next_ms: int, bars: list[Bar] | None, forming: Bar | None = None
    ) -> Bulletin:
        now_ms, (state, message) = self._clock.now_ms(), self.front.health
        return Bulletin(self._fence, now_ms, from_ms, next_ms, bars, forming, state, message)
