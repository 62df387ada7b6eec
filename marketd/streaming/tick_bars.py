"""The registry of followed bars that are measured in trades: one count of each, however many clients."""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from functools import partial
from typing import NamedTuple, Protocol

from marketd.domain.instrument import TickSeries
from marketd.domain.tickframe import Tickframe
from marketd.domain.timeframe import day_of
from marketd.plugins.feed import TickFeed
from marketd.streaming.broadcast import BroadcastManager
from marketd.streaming.needs import Past
from marketd.streaming.pages import Pages
from marketd.streaming.ring import Cursor, Replay
from marketd.streaming.tapes import TapeService
from marketd.streaming.tick_bar_stream import TickBarStream, TickBarSubscription
from marketd.streaming.tick_bar_worker import TickBarWorker, Walk
from marketd.supervisor import Supervisor

# Every page is counted from the beginning of its day on: they are not small.
_PAGE = 5_000


class CountedPast(Past[TickFeed, TickSeries], Protocol):
    """Everything that live needs of bars that are counted."""

    def walk(self, feed: TickFeed, frame: Tickframe, at_ms: int) -> Walk:
        """Begins to count at a time at which a bar begins."""


class TickBarsJoined(NamedTuple):
    """Where a subscription stands at first: `begun` tells it, once the day has been counted.

    Until then `cursor` is that of a client which has been told nothing of the day. `replay` is what a
    client that comes back has missed, if that is still known.
    """

    cursor: Cursor
    begun: asyncio.Future[Cursor] | None
    replay: Replay | None

    async def start(self) -> Cursor:
        """The cursor of a client that has all before live."""
        return self.cursor if self.begun is None else await asyncio.shield(self.begun)


class _Count:
    """A followed series."""

    def __init__(self, feed: TickFeed, stream: TickBarStream, worker: TickBarWorker) -> None:
        self.feed = feed
        self.stream = stream
        self.worker = worker
        self.task: asyncio.Task[None]
        self.ending: asyncio.TimerHandle | None = None


class TickBarService:
    """Starts to count with the first subscription, and ends it some time after the last."""

    def __init__(
        self,
        *,
        tapes: TapeService,
        past: CountedPast,
        broadcast: BroadcastManager,
        supervisor: Supervisor,
        linger_ms: int,
        ring: int,
        request_timeout_ms: int,
    ) -> None:
        self._tapes = tapes
        self._past = past
        self._supervisor = supervisor
        self._linger_s = linger_ms / 1000
        self._ring_size = ring
        self._patience_s = request_timeout_ms / 1000
        self._broadcast = broadcast
        self._pages = Pages(past, _PAGE)
        self._counts: dict[TickSeries, _Count] = {}

    def check_room(self, streams: Collection[TickSeries]) -> None:
        """LimitExceeded if these streams, too, would be too many."""
        self._broadcast.check_room(len(set(streams) - self._counts.keys()))

    def subscribe(
        self, feed: TickFeed, subscription: TickBarSubscription, resume: Cursor | None = None
    ) -> TickBarsJoined:
        """Adds a subscription, which waits for `go_live`; `resume` is where its client stood before.

        Raises Unsupported where the provider has no stream of trades.
        """
        count = self._counts.get(subscription.series) or self._follow(feed, subscription.series)
        if count.ending is not None:
            count.ending.cancel()
            count.ending = None
        stream = count.stream
        stream.add(subscription)
        begun = None if stream.begun.done() else stream.begun
        replay = None if resume is None or begun else stream.ring.replay(resume)
        return TickBarsJoined(stream.cursor, begun, replay)

    def unsubscribe(self, feed: TickFeed, subscription: TickBarSubscription) -> None:
        """Removes a subscription; a series without another ends after the linger time."""
        count = self._counts[subscription.series]
        count.stream.remove(subscription)
        if not count.stream.channel:
            loop = asyncio.get_running_loop()
            count.ending = loop.call_later(self._linger_s, self._end, count)

    async def catch_up(
        self,
        feed: TickFeed,
        subscription: TickBarSubscription,
        since: int,
        joined: TickBarsJoined,
    ) -> bool:
        """Sends the closed bars from `since` on up to where live begins; see Pages.send."""
        return await self._pages.send(feed, subscription, since, await joined.start())

    async def resume(
        self,
        feed: TickFeed,
        subscription: TickBarSubscription,
        cursor: Cursor,
        joined: TickBarsJoined,
    ) -> bool:
        """Sends what a client has missed since `cursor`; see Pages.resume."""
        until = await joined.start()
        return await self._pages.resume(feed, subscription, cursor, joined.replay, until)

    def _follow(self, feed: TickFeed, series: TickSeries) -> _Count:
        day_ms = day_of(feed.provider.now_ms())
        stream = TickBarStream(
            series,
            day_ms,
            self._broadcast,
            ring_size=self._ring_size,
            revised=partial(self._pages.forget, series),
        )
        walks = partial(self._past.walk, feed, series.timeframe)
        worker = TickBarWorker(stream, walks, day_ms=day_ms, patience_s=self._patience_s)
        known_ms = self._tapes.listen(feed, worker)
        count = self._counts[series] = _Count(feed, stream, worker)
        count.task = self._supervisor.run(f"count {series}", partial(worker.run, known_ms))
        return count

    def _end(self, count: _Count) -> None:
        count.task.cancel()
        count.stream.channel.close()
        self._tapes.leave(count.feed, count.worker)
        del self._counts[count.stream.series]
