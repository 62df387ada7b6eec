"""Everything behind streams of trades, with a vendor and clients that a test makes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from scripted import INSTRUMENT, START, TickingPlugin, provider_of, scripted
from world import Client

from marketd.clock import ManualClock
from marketd.domain.bar import Bar, Tick
from marketd.domain.coverage import Covered
from marketd.domain.timeframe import DAY_MS
from marketd.domain.timerange import MAX_MS, TimeRange
from marketd.market.tapes import Tapes
from marketd.market.tick_bar_pages import TickBarPages
from marketd.metrics import Metrics
from marketd.plugins.feed import TickFeed
from marketd.storage import Storage
from marketd.streaming.broadcast import BroadcastManager
from marketd.streaming.member import Others
from marketd.streaming.ring import Cursor
from marketd.streaming.tape_stream import TapeSubscription
from marketd.streaming.tapes import TapeService
from marketd.streaming.tick_bars import TickBarService
from marketd.supervisor import Supervisor

S = 1_000
STALL = 30 * S
EVER = TimeRange(0, MAX_MS)


def tick(ms: int, trade_id: str | None = None, price: float = 100.0) -> Tick:
    return (START + ms, price, 0.5, "buy", str(ms) if trade_id is None else trade_id)


class TapeWorld:
    """One instrument's trades, of a provider whose words and clock the test has."""

    def __init__(
        self,
        storage: Storage,
        cls: type[Any] = TickingPlugin,
        *,
        clock: ManualClock | None = None,
        others: Others | None = None,
    ) -> None:
        self.clock = clock or ManualClock(START)
        self.plugin: Any = scripted([], now_ms=START, cls=cls, clock=self.clock)
        self.feed = TickFeed(provider_of(self.plugin), INSTRUMENT)
        self.storage = storage
        self.metrics = Metrics()
        self.tapes = Tapes(storage, self.metrics)
        self.supervisor = Supervisor(self.metrics)
        self.broadcast = BroadcastManager(self.metrics, most_channels=100)
        # What the provider's bars show.
        self.bars: list[Bar] = []
        self.quiet_ms = 0
        following: dict[str, Any] = {
            "broadcast": self.broadcast,
            "supervisor": self.supervisor,
            "linger_ms": 20,
            "ring": 5,
            "request_timeout_ms": 2_000,
        }
        self.service = TapeService(
            tapes=self.tapes, bars=self, metrics=self.metrics, stall_ms=STALL, others=others, **following
        )
        self.pages = TickBarPages(self.tapes, request_timeout_ms=2_000, keep_ms=10 * DAY_MS)
        self.counting = TickBarService(tapes=self.service, past=self.pages, **following)

    async def bars_since(self, feed: TickFeed, since_ms: int) -> Sequence[Bar]:
        return list(self.bars)

    async def quiet_until(self, feed: TickFeed, since_ms: int, last: Tick) -> int:
        return self.quiet_ms

    async def join(
        self, client: Client, since: int | None = None, resume: str | None = None
    ) -> tuple[TapeSubscription, bool]:
        cursor = Cursor.parse(resume, field="resume") if resume else None
        subscription = TapeSubscription(INSTRUMENT, client.outbox)
        joined = self.service.subscribe(self.feed, subscription, cursor)
        recovered = True
        if cursor is not None:
            recovered = await self.service.resume(self.feed, subscription, cursor, joined)
        elif since is not None:
            recovered = await self.service.catch_up(self.feed, subscription, since, joined)
        subscription.go_live()
        return subscription, recovered

    def says(self, *ticks: Tick, at: int | None = None) -> None:
        self.clock.set(max(self.clock.now_ms(), START + at if at is not None else ticks[-1][0]))
        self.plugin.batches.put_nowait(list(ticks))

    async def stored(self) -> list[Tick]:
        return (await self.storage.read_ticks(INSTRUMENT, EVER, limit=10_000)).ticks

    async def coverage(self) -> list[Covered]:
        return (await self.storage.read_ticks(INSTRUMENT, EVER, limit=0)).coverage


async def trades(client: Client, count: int) -> list[Tick]:
    """The next trades, of history or live."""
    found: list[Tick] = []
    while len(found) < count:
        message = await client.next()
        found += [tuple(one) for one in message.get("ticks", ())]
    return found


async def passing(clock: ManualClock, step_ms: int = 500) -> None:
    """Lets the provider's time pass quickly."""
    while True:
        clock.advance(step_ms)
        await asyncio.sleep(0.002)


MakeTaped: TypeAlias = Callable[..., TapeWorld]
