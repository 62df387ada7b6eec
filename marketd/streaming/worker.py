"""Follows one base series at its provider: the one upstream, however many clients.

The worker keeps `next_ms`, the open time of the first bar that it has not published as closed. A bar
is stored, then published, then passed; what the stream leaves out is asked of the provider's history
before live goes on. So whoever has the history before `next_ms` and listens from there misses nothing.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing

from marketd.domain.bar import Bar
from marketd.domain.coverage import Covered, Reason
from marketd.domain.errors import FeedStalled, MarketdError, StorageFailed
from marketd.domain.timerange import TimeRange
from marketd.plugins.base import BarUpdate
from marketd.plugins.feed import Feed
from marketd.storage import Storage
from marketd.streaming.corrections import Corrections
from marketd.streaming.events import BarEvent, Event, GapEvent, HealthEvent, Progress
from marketd.streaming.needs import History, Urgent
from marketd.streaming.polling import poll
from marketd.streaming.recheck import recheck
from marketd.streaming.silence import watch_silence

log = logging.getLogger(__name__)

# How long after a close the stream is given to report the bar before the history is asked.
_GRACE_MS = 1_000
_CATCH_UP_BARS = 5_000
# What may wait of a stream while a bar is being stored, or the store is away.
_INBOX = 1_000
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 30.0
_STORE_PAUSE_S = 1.0


class SeriesWorker:
    """One followed series. `emit` is called in order and must not block.

    A stream that says nothing for `stall_ms` is either quiet or mute: the provider's history tells
    which, and a mute one is begun anew. Bars that change after they were published are told, whoever has
    changed them: `changed` is to be called with what is stored of the series.
    """

    def __init__(
        self,
        feed: Feed,
        *,
        history: History,
        storage: Storage,
        emit: Callable[[Event], None],
        urgent: Urgent,
        stall_ms: int,
    ) -> None:
        self.next_ms = feed.present().settled_end_ms
        self._feed = feed
        self._timeframe = feed.series.timeframe
        self._history = history
        self._storage = storage
        self._emit = emit
        self._urgent = urgent
        self._stall_ms = stall_ms
        self._lag_ms = feed.provider.plugin.settle_ms + _GRACE_MS
        self._corrections = Corrections(storage, feed.series, self.next_ms, emit)
        self.changed = self._corrections.changed
        self._heard_ms = 0
        # What clients have been told of the feed.
        self._state = "live"

    async def run(self) -> None:
        """Follows until cancelled."""
        with self._feed.provider.lease():
            async with asyncio.TaskGroup() as group:
                group.create_task(self._corrections.run())
                await self._keep_following()

    async def _keep_following(self) -> None:
        """When the provider fails, says so, waits and begins again."""
        pause_s = _FIRST_PAUSE_S
        while True:
            before_ms = self.next_ms
            try:
                await self._follow()
            except MarketdError as error:
                self._tell("stale" if isinstance(error, FeedStalled) else "down", error.message)
            if self.next_ms > before_ms:
                pause_s = _FIRST_PAUSE_S
            await _pause(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    async def _follow(self) -> None:
        """One connection's life: raises when it ends."""
        inbox: asyncio.Queue[BarUpdate | int] = asyncio.Queue(_INBOX)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._listen(inbox))
                if self._feed.is_streamed:
                    self._watch(inbox, group)
                await self._catch_up(self._feed.present().settled_end_ms)
                while True:
                    await self._handle(await inbox.get(), inbox)
        except* MarketdError as failures:
            raise _first(failures) from None

    def _watch(self, inbox: asyncio.Queue[BarUpdate | int], group: asyncio.TaskGroup) -> None:
        """Makes up for what a stream may keep to itself."""
        feed, history = self._feed, self._history
        self._heard_ms = feed.provider.now_ms()
        group.create_task(self._watch_closes(inbox))
        silence = watch_silence(feed, history, heard_ms=lambda: self._heard_ms, stall_ms=self._stall_ms)
        group.create_task(silence)
        if feed.may_correct:
            group.create_task(recheck(feed, history, next_ms=lambda: self.next_ms))

    async def _handle(self, item: BarUpdate | int, inbox: asyncio.Queue[BarUpdate | int]) -> None:
        """Takes what has come. While the store is away it waits here, and what comes later in the inbox.

        When that is full the stream is given up: what it said is asked of history later.
        """
        while True:
            try:
                if isinstance(item, BarUpdate):
                    await self._take(item)
                else:
                    await self._catch_up(item)
            except StorageFailed as error:
                self._tell("down", error.message)
                if inbox.full():
                    raise
                await _pause(_STORE_PAUSE_S)
            else:
                # A stream that was mute is believed once it speaks.
                if self._state == "down" or isinstance(item, BarUpdate):
                    self._tell("live", "")
                return

    async def _listen(self, inbox: asyncio.Queue[BarUpdate | int]) -> None:
        provider = self._feed.provider
        async with aclosing(self._source()) as updates:
            async for update in updates:
                self._heard_ms = provider.now_ms()
                # Where much waits a forming bar gives way: the closed one will say all of it.
                if isinstance(update, int) or update.closed or inbox.qsize() < _INBOX // 2:
                    await inbox.put(update)

    def _source(self) -> AsyncGenerator[BarUpdate | int, None]:
        provider, symbol = self._feed.provider, self._feed.series.instrument.symbol
        if self._feed.is_streamed:
            return provider.stream(symbol, self._timeframe)
        return poll(self._feed, self._history, lag_ms=self._lag_ms)

    async def _watch_closes(self, inbox: asyncio.Queue[BarUpdate | int]) -> None:
        """Puts the time up to which every bar should have been reported, whenever that moves on."""
        plugin, timeframe = self._feed.provider.plugin, self._timeframe
        lag_ms = self._lag_ms
        while True:
            await plugin.clock.sleep_until(timeframe.end(plugin.clock.now_ms() - lag_ms) + lag_ms)
            # The clock may have jumped over several closes.
            await inbox.put(timeframe.floor(plugin.clock.now_ms() - lag_ms))

    async def _take(self, update: BarUpdate) -> None:
        bar, closed = update
        if bar[0] > self.next_ms:
            # The stream has gone on to a later interval: those before it are over.
            plugin = self._feed.provider.plugin
            await plugin.clock.sleep_until(bar[0] + plugin.settle_ms)
            await self._catch_up(bar[0])
        if not closed:
            if bar[0] == self.next_ms:
                with self._urgent():
                    self._emit(BarEvent(bar, closed=False))
            return
        end_ms = self._timeframe.end(bar[0])
        proven = Covered(bar[0], end_ms, Reason.DATA)
        at_ms = self._feed.provider.now_ms()
        with self._urgent():
            await self._storage.store(self._feed.series, [bar], [proven], at_ms=at_ms)
        # Of an interval that was passed already, what has changed is told by now.
        if bar[0] == self.next_ms:
            self._publish([bar], end_ms)

    async def _catch_up(self, until_ms: int) -> None:
        """Publishes what history has of the intervals before `until_ms` that were not published."""
        while self.next_ms < until_ms:
            end_ms = min(until_ms, self._timeframe.shift(self.next_ms, _CATCH_UP_BARS))
            bars, gaps = await self._history.closed(self._feed, TimeRange(self.next_ms, end_ms))
            for gap in gaps:
                self._emit(GapEvent(gap))
            self._publish(bars, end_ms)

    def _publish(self, bars: Sequence[Bar], next_ms: int) -> None:
        """Tells the closed bars up to `next_ms`, all there are."""
        for bar in bars:
            self._emit(BarEvent(bar, closed=True))
        self.next_ms = next_ms
        self._emit(Progress(next_ms))
        self._corrections.published(bars, next_ms)

    def _tell(self, state: str, message: str) -> None:
        """Says what has become of the feed, once."""
        if state == self._state:
            return
        self._state = state
        level = logging.INFO if state == "live" else logging.WARNING
        log.log(level, "feed %s series=%s reason=%s", state, self._feed.series, message or "it speaks")
        self._emit(HealthEvent(state, message))


async def _pause(longest_s: float) -> None:
    await asyncio.sleep(random.uniform(0, longest_s))  # noqa: S311 - full jitter


def _first(group: BaseExceptionGroup[MarketdError]) -> MarketdError:
    first = group.exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first
