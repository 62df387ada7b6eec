"""One followed series of a node among others: it leads, follows whoever does, or is alone with it.

Whatever its part is, it goes on from where the one before has stopped: what this node's clients were
told is kept in one place, the front. A part that ends is cancelled; what it had stored and not yet
told, the next one reads.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

from marketd.bus import MessageBus
from marketd.clock import Clock
from marketd.domain.bar import Bar
from marketd.domain.errors import MarketdError, StorageFailed, Superseded
from marketd.domain.instrument import Series
from marketd.encoding import to_json
from marketd.metrics import Metrics
from marketd.plugins.feed import Feed
from marketd.storage import Storage
from marketd.streaming.bulletin import Bulletin
from marketd.streaming.events import BarEvent, Event, GapEvent, HealthEvent, Progress
from marketd.streaming.front import Front
from marketd.streaming.needs import History, Urgent
from marketd.streaming.nodes import Nodes, Part
from marketd.streaming.tapes import TapeService
from marketd.streaming.worker import SeriesWorker
from marketd.supervisor import cancel_all

log = logging.getLogger(__name__)

_PAUSE_S = 1.0
# What may wait of a leader's words; each says where it stands, so that the next makes up for a lost one.
_INBOX = 1_000
# The most bars in one word; more are read from the store.
_MOST_BARS = 100


class Others(NamedTuple):
    """This node's way to the others. `clock` is that by which they tell how late a word is."""

    nodes: Nodes
    bus: MessageBus
    clock: Clock
    metrics: Metrics


class NodeWorker:
    """Follows `feed` with the help of other nodes. `emit` is called in order and must not block."""

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
        self.front = Front(feed, storage=storage, history=history, emit=self._emit)
        self.name = to_json(_names(feed.series)).decode()
        self._feed = feed
        self._tell_clients = emit
        self._nodes, self._bus, self._clock, self._metrics = others
        self._history = history
        self._storage = storage
        self._tapes = tapes
        self._urgent = urgent
        self._stall_ms = stall_ms
        self._part = Part.WAITING
        self._is_assigned = asyncio.Event()
        self._inbox: asyncio.Queue[Bulletin] = asyncio.Queue(_INBOX)
        # The fence of this node, or the latest of which it has heard.
        self._fence = 0
        # While this node leads: up to where it has told the others, and what it is about to tell them.
        self._leads = False
        self._told_ms = 0
        self._bars: list[Bar] = []
        self._has_gap = False

    async def run(self) -> None:
        """Follows until cancelled."""
        self._nodes.join(self)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self.front.run())
                await self.front.known()
                while True:
                    await self._play()
        finally:
            self._nodes.leave(self)

    def note(self) -> bytes:
        """See nodes.Member."""
        next_ms = self.front.next_ms
        return self._bulletin(next_ms, next_ms, []).pack()

    def assign(self, part: Part, note: bytes) -> None:
        """See nodes.Member."""
        if part is not self._part:
            self._part = part
            self._is_assigned.set()
        if part is Part.FOLLOWING:
            self._hear(note)
        if part is Part.WAITING and self._storage.fault:
            # At once: a part that leads may wait for a store that says nothing, before it ends.
            self.front.tell("down", self._storage.fault)

    async def _play(self) -> None:
        """One part, until there is another."""
        self._is_assigned.clear()
        match self._part:
            case Part.LEADING:
                work = self._lead()
            case Part.FOLLOWING:
                work = self._follow()
            case Part.ALONE:
                work = self._worker(self._feed).follow()
            case Part.WAITING:
                # Nobody is known to lead.
                work = asyncio.sleep(math.inf)
        playing = asyncio.create_task(work, name=f"{self._part} {self._feed.series}")
        tasks = {playing, asyncio.create_task(self._assigned())}
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            tasks -= done
        finally:
            await cancel_all(tasks)
        if playing in done:
            playing.result()

    async def _assigned(self) -> None:
        await self._is_assigned.wait()

    async def _lead(self) -> None:
        """Follows the series for all nodes; returns when another has begun to."""
        try:
            self._fence = await self._storage.lead(self._feed.series)
        except StorageFailed as error:
            self.front.tell("down", error.message)
            await asyncio.sleep(_PAUSE_S)
            return
        self._metrics.stream_led.inc()
        log.info("leading series=%s fence=%d", self._feed.series, self._fence)
        self._metrics.stream_leading.inc()
        self._leads = True
        self._told_ms = self.front.next_ms
        try:
            await self._worker(replace(self._feed, fence=self._fence)).follow()
        except Superseded:
            # Whether the lease is still this node's own, the next round tells.
            self._part = Part.WAITING
        finally:
            self._metrics.stream_leading.dec()
            self._leads = False
            self._bars, self._has_gap = [], False
            log.info("not leading any more series=%s fence=%d", self._feed.series, self._fence)

    def _worker(self, feed: Feed) -> SeriesWorker:
        return SeriesWorker(
            feed,
            self.front,
            history=self._history,
            storage=self._storage,
            tapes=self._tapes,
            urgent=self._urgent,
            stall_ms=self._stall_ms,
        )

    # Following

    async def _follow(self) -> None:
        """Tells what the leader says, and reads what it has said in vain."""
        self._bus.subscribe(self.name, self._hear)
        try:
            while True:
                await self._take(await self._inbox.get())
        finally:
            self._bus.unsubscribe(self.name, self._hear)

    def _hear(self, data: bytes) -> None:
        bulletin = Bulletin.unpack(data)
        if bulletin is not None and not self._inbox.full():
            self._inbox.put_nowait(bulletin)

    async def _take(self, bulletin: Bulletin) -> None:
        if bulletin.fence < self._fence:
            # Of one who led before, and does not know that another does.
            return
        self._fence = bulletin.fence
        front = self.front
        try:
            if bulletin.bars is None or bulletin.from_ms > front.next_ms:
                await front.catch_up(self._feed, bulletin.next_ms)
        except MarketdError as error:
            # The next word tries again, at the latest that of the next round.
            front.tell("down", error.message)
            return
        if bulletin.bars is not None and bulletin.next_ms > front.next_ms:
            new = [bar for bar in bulletin.bars if bar[0] >= front.next_ms]
            front.close(new, bulletin.next_ms)
            self._metrics.bus_lag.observe(max(0, self._clock.now_ms() - bulletin.sent_ms) / 1000)
        if bulletin.forming is not None:
            front.form(bulletin.forming)
        front.tell(bulletin.state, bulletin.message)

    # Leading

    def _emit(self, event: Event) -> None:
        self._tell_clients(event)
        if self._leads:
            self._tell_nodes(event)

    def _tell_nodes(self, event: Event) -> None:
        """What is revised they find in the store by themselves."""
        match event:
            case BarEvent(bar, closed=False):
                self._publish(self._told_ms, [], bar)
            case BarEvent(bar, rev=0):
                self._bars.append(bar)
            case GapEvent():
                self._has_gap = True
            case Progress(next_ms):
                is_short = not self._has_gap and len(self._bars) <= _MOST_BARS
                self._publish(next_ms, self._bars if is_short else None)
                self._told_ms = next_ms
                self._bars, self._has_gap = [], False
            case HealthEvent():
                self._publish(self._told_ms, [])

    def _publish(self, next_ms: int, bars: list[Bar] | None, forming: Bar | None = None) -> None:
        self._bus.publish(self.name, self._bulletin(self._told_ms, next_ms, bars, forming).pack())

    def _bulletin(
        self, from_ms: int, next_ms: int, bars: list[Bar] | None, forming: Bar | None = None
    ) -> Bulletin:
        now_ms, (state, message) = self._clock.now_ms(), self.front.health
        return Bulletin(self._fence, now_ms, from_ms, next_ms, bars, forming, state, message)


def _names(series: Series) -> Sequence[str]:
    what = series.instrument
    return (what.market, what.provider, what.symbol, str(series.timeframe), series.variant)
