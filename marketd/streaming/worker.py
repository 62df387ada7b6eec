"""Follows one base series at its provider: the one upstream, however many clients.

A bar is stored, then told, then passed; what the stream leaves out is asked of the provider's history
before live goes on. So whoever has the history before the front's `next_ms` and listens from there
misses nothing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import TypeAlias

from marketd.domain.coverage import Covered, Reason
from marketd.domain.errors import FeedStalled, MarketdError, StorageFailed, Superseded
from marketd.plugins.base import BarUpdate
from marketd.plugins.feed import Feed
from marketd.storage import Storage
from marketd.streaming.closes import watch_closes
from marketd.streaming.events import Event, HealthEvent
from marketd.streaming.front import Front
from marketd.streaming.needs import History, Urgent
from marketd.streaming.polling import poll
from marketd.streaming.recheck import recheck
from marketd.streaming.retry import Backoff, first, pause
from marketd.streaming.silence import watch_silence
from marketd.streaming.tapes import TapeService
from marketd.streaming.trade_bars import follow_trades
from marketd.supervisor import raise_if_cancelled

log = logging.getLogger(__name__)

# How long after a close the stream is given to report the bar before the history is asked.
_GRACE_MS = 1_000
# What may wait of a stream while a bar is being stored, or the store is away.
_INBOX = 1_000
_STORE_PAUSE_S = 1.0

# A bar, a time up to which every bar should be stored by now, or what has become of its trades' stream.
_Item: TypeAlias = BarUpdate | int | HealthEvent


class SeriesWorker:
    """Moves the front of one series on.

    A stream that says nothing for `stall_ms` is either quiet or mute: the provider's history tells
    which, and a mute one is begun anew.
    """

    def __init__(
        self,
        feed: Feed,
        front: Front,
        *,
        history: History,
        storage: Storage,
        tapes: TapeService,
        urgent: Urgent,
        stall_ms: int,
    ) -> None:
        self._feed = feed
        self._front = front
        self._timeframe = feed.series.timeframe
        self._history = history
        self._storage = storage
        self._tapes = tapes
        self._urgent = urgent
        self._stall_ms = stall_ms
        self._lag_ms = feed.provider.plugin.settle_ms + _GRACE_MS
        # A socket is silent in real time, however fast the provider's own runs.
        self._clock = feed.provider.plugin.context.clock
        self._heard_ms = 0
        # By the provider's clock, the newest bar that this connection has spoken of, or when it began;
        # and whether the stream of trades behind it is up.
        self._said_ms = 0
        self._is_up = True

    async def follow(self) -> None:
        """Follows until cancelled; when the provider fails, says so, waits and begins again.

        Raises Superseded once another node leads the series with a later fence than the feed's.
        """
        with self._feed.provider.lease():
            await self._keep_following()

    async def _keep_following(self) -> None:
        backoff = Backoff()
        while True:
            try:
                await self._follow()
            except Superseded:
                raise
            except MarketdError as error:
                state = "stale" if isinstance(error, FeedStalled) else "down"
                self._front.tell(state, error.message)
            await backoff.pause()

    async def _follow(self) -> None:
        """One connection's life: raises when it ends."""
        inbox: asyncio.Queue[_Item] = asyncio.Queue(_INBOX)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._listen(inbox))
                self._watch(inbox, group)
                await self._front.catch_up(self._feed, self._feed.present().settled_end_ms)
                while True:
                    await self._handle(await inbox.get(), inbox)
        except* MarketdError as failures:
            raise first(failures) from None

    def _watch(self, inbox: asyncio.Queue[_Item], group: asyncio.TaskGroup) -> None:
        """Makes up for what a stream may keep to itself. Polling does so anyway."""
        feed, history = self._feed, self._history
        if feed.is_streamed:
            self._heard_ms = self._clock.now_ms()
            silence = watch_silence(
                feed, history, self._clock, heard_ms=lambda: self._heard_ms, stall_ms=self._stall_ms
            )
            group.create_task(silence)
        elif not feed.follows_trades:
            return
        # Read now, not when the task begins: an interval may end in between.
        self._said_ms, self._is_up = feed.provider.now_ms(), True
        passed_ms = self._timeframe.floor(self._said_ms - self._lag_ms)
        closes = watch_closes(
            feed, inbox.put, passed_ms=passed_ms, lag_ms=self._lag_ms, told_ms=self._told_ms
        )
        group.create_task(closes)
        if feed.may_correct:
            group.create_task(recheck(feed, history, next_ms=lambda: self._front.next_ms))

    async def _handle(self, item: _Item, inbox: asyncio.Queue[_Item]) -> None:
        """Takes what has come. While the store is away it waits here, and what comes later in the inbox.

        When that is full the stream is given up: what it said is asked of history later.
        """
        if isinstance(item, HealthEvent):
            self._front.tell(*item)
            return
        while True:
            try:
                if isinstance(item, BarUpdate):
                    await self._take(item)
                else:
                    await self._front.catch_up(self._feed, item)
            except StorageFailed as error:
                self._front.tell("down", error.message)
                if inbox.full():
                    raise
                await pause(_STORE_PAUSE_S)
            else:
                # A stream that was mute is believed once it speaks.
                if self._front.health.state == "down" or isinstance(item, BarUpdate):
                    self._front.tell("live", "")
                return

    async def _listen(self, inbox: asyncio.Queue[_Item]) -> None:
        async with aclosing(self._source()) as updates:
            async for update in updates:
                raise_if_cancelled()
                self._heard_ms = self._clock.now_ms()
                if isinstance(update, BarUpdate):
                    self._said_ms = max(self._said_ms, update.bar[0])
                elif isinstance(update, HealthEvent):
                    self._is_up = update.state == "live"
                # Where much waits a forming bar gives way: the closed one will say all of it.
                is_forming = isinstance(update, BarUpdate) and not update.closed
                if not is_forming or inbox.qsize() < _INBOX // 2:
                    await inbox.put(update)

    def _told_ms(self) -> int:
        """The newest bar that anybody has told; see watch_closes."""
        if not self._is_up:
            # That nothing is told shows no quiet.
            return self._feed.provider.now_ms()
        return max(self._said_ms, self._front.told_ms)

    def _source(self) -> AsyncGenerator[_Item, None]:
        provider, symbol = self._feed.provider, self._feed.series.instrument.symbol
        if self._feed.is_streamed:
            return provider.stream(symbol, self._timeframe)
        if self._feed.follows_trades:
            return follow_trades(self._feed, self._tapes)
        return poll(self._feed, self._history, lag_ms=self._lag_ms)

    async def _take(self, update: BarUpdate) -> None:
        bar, closed = update
        feed, front = self._feed, self._front
        if bar[0] > front.next_ms:
            # The stream has gone on to a later interval: those before it are over.
            plugin = feed.provider.plugin
            await plugin.clock.sleep_until(bar[0] + plugin.settle_ms)
            await front.catch_up(feed, bar[0])
        if not closed:
            with self._urgent():
                front.form(bar)
            return
        end_ms = self._timeframe.end(bar[0])
        proven = Covered(bar[0], end_ms, Reason.DATA)
        with self._urgent():
            await self._storage.store(
                feed.series, [bar], [proven], at_ms=feed.provider.now_ms(), fence=feed.fence
            )
        # Of an interval that was passed already, what has changed is told by now.
        if bar[0] == front.next_ms:
            front.close([bar], end_ms)


class LoneWorker:
    """Follows a series where there are no other nodes. `emit` is called in order and must not block."""

    def __init__(
        self,
        feed: Feed,
        emit: Callable[[Event], None],
        *,
        history: History,
        storage: Storage,
        tapes: TapeService,
        urgent: Urgent,
        stall_ms: int,
    ) -> None:
        self.front = Front(feed, history=history, storage=storage, emit=emit)
        self._worker = SeriesWorker(
            feed,
            self.front,
            history=history,
            storage=storage,
            tapes=tapes,
            urgent=urgent,
            stall_ms=stall_ms,
        )

    async def run(self) -> None:
        """Follows until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self.front.run())
            await self.front.known()
            await self._worker.follow()
