"""One timeframe of a followed series: what it has published, and what it was made of."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import Generic

from marketd.domain.bar import Bar
from marketd.domain.instrument import Series
from marketd.streaming.broadcast import BroadcastManager, Channel, Subscription
from marketd.streaming.derive import Deriver
from marketd.streaming.events import BarEvent, ChangesTold, Event, HealthEvent, News, Progress
from marketd.streaming.messages import Message, S, event_message
from marketd.streaming.outbox import Outbox
from marketd.streaming.ring import Cursor, Ring

# How many buckets' revisions are counted on; those of others begin with the revision of their bar.
_REVS_KEPT = 1_000
# How many messages wait for a client that catches up with history.
_MOST_WAITING = 10_000


class BarSubscription(Subscription, Generic[S]):
    """One client's subscription to a stream of bars."""

    __slots__ = ("_told_ms", "series")

    def __init__(self, series: S, outbox: Outbox) -> None:
        super().__init__(outbox)
        self.series = series
        self._told_ms = 0

    def leave_out(self, before_ms: int) -> None:
        """Keeps no bar before a time, which the client knows; how the feed is it is told at once."""
        self._told_ms = before_ms
        waiting, self._waiting = self._waiting, []
        for message in waiting:
            self.keep(message)

    def keep(self, message: Message) -> None:
        """See Subscription; a forming bar gives way to what comes after it."""
        if self._told_ms:
            bar = message.body.get("bar")
            if bar is None:
                self.outbox.put_news(self.channel, message)
                return
            if bar[0] < self._told_ms:
                return
        waiting = self._waiting
        if waiting and not (waiting[-1].lasts or message.lasts):
            waiting.pop()
            self.channel.conflated(1)
        if len(waiting) < _MOST_WAITING:
            waiting.append(message)
        else:
            self.outbox.give_up()


class Stream:
    """Publishes the events of its timeframe, and keeps those that must not be missed for a while.

    It is whole from `next_ms` on: every closed bar that opens at or after that time is published. The
    changes of the store up to `number` have been told.
    """

    def __init__(
        self,
        series: Series,
        next_ms: int,
        number: int | None,
        broadcast: BroadcastManager,
        *,
        ring_size: int,
        on_written: Callable[[int], None],
    ) -> None:
        self.series = series
        self.next_ms = next_ms
        self.channel = Channel(broadcast)
        self.ring = Ring(series, ring_size, next_ms)
        self.deriver: Deriver | None = None
        self.task: asyncio.Task[None] | None = None
        self.ending: asyncio.TimerHandle | None = None
        # Given the time that a bar has closed at, once its clients have been written to.
        self._on_written = on_written
        self._forming: BarEvent | None = None
        self._has_moved = asyncio.Event()
        # Buckets to publish anew, each with the revision of what has changed in it; and as what revision
        # those of late were published.
        self._revised: dict[int, int] = {}
        self._is_revised = asyncio.Event()
        # Up to which change the bars that this is made of have been told, and this itself.
        self._base_number = self._number = number
        self._is_revising = False
        self._revs: dict[int, int] = {}

    @property
    def cursor(self) -> Cursor:
        """The cursor of a client that has been told everything."""
        return self._cursor(self.next_ms)

    def take(self, event: Event) -> None:
        """An event of this very timeframe."""
        if isinstance(event, Progress):
            self.next_ms = event.next_ms
            self._forming = None
            self._has_moved.set()
            return
        if isinstance(event, ChangesTold):
            self._base_number = event.number
            self._count()
            return
        if isinstance(event, BarEvent) and not event.closed:
            self._forming = event
        message, next_ms = self._message(event)
        if next_ms is not None:
            self.ring.add(message, next_ms)
        if isinstance(event, BarEvent) and event.closed and not event.rev:
            closed_ms = self.series.timeframe.end(event.bar[0])
            self.channel.publish(message, partial(self._on_written, closed_ms))
        else:
            self.channel.publish(message)

    async def reached(self, next_ms: int) -> None:
        """Returns when it is whole up to `next_ms`."""
        while self.next_ms < next_ms:
            self._has_moved.clear()
            await self._has_moved.wait()

    def greeting(self, health: HealthEvent) -> list[Message]:
        """What a client is told when it joins: the forming bar, and that the feed is not well."""
        news: list[News] = [self._forming] if self._forming is not None else []
        if health.state != "live":
            news.append(health)
        return [self._message(event)[0] for event in news]

    def revise(self, bucket_ms: int, rev: int) -> None:
        """Notes that a published bucket has changed, by revision `rev` of a bar in it."""
        self._revised[bucket_ms] = max(rev, self._revised.pop(bucket_ms, 0))
        self._is_revised.set()

    async def next_revised(self) -> tuple[int, int]:
        """A bucket that has changed, and its revision, once there is one: several changes of one are
        one. It is to be read after this, and `revised`; or noted again."""
        await self._is_revised.wait()
        bucket_ms = next(iter(self._revised))
        rev = self._revised.pop(bucket_ms)
        self._is_revising = True
        if not self._revised:
            self._is_revised.clear()
        return bucket_ms, rev

    def revised(self, bucket_ms: int, rev: int, whole: Bar | None) -> None:
        """Publishes such a bucket as it has become; without a bar there is nothing to say of it."""
        if whole is not None:
            rev = max(rev, self._revs.pop(bucket_ms, 0) + 1)
            self._revs[bucket_ms] = rev
            if len(self._revs) > _REVS_KEPT:
                del self._revs[next(iter(self._revs))]
            self.take(BarEvent(whole, closed=True, rev=rev))
        self._is_revising = False
        self._count()

    def _count(self) -> None:
        """Counts the changes that were told, once no bucket is left that they have changed."""
        if not self._revised and not self._is_revising:
            self._number = self._base_number

    def _cursor(self, next_ms: int, *, ahead: int = 0) -> Cursor:
        return self.ring.cursor(next_ms, ahead=ahead)._replace(number=self._number)

    def _message(self, event: News) -> tuple[Message, int | None]:
        """What clients are told, and up to where the stream is whole then, if it must not be missed."""
        if isinstance(event, HealthEvent) or (isinstance(event, BarEvent) and not event.closed):
            return event_message(self.series, event, self.cursor.token()), None
        next_ms = self.next_ms
        if isinstance(event, BarEvent) and not event.rev:
            next_ms = self.series.timeframe.end(event.bar[0])
        return event_message(self.series, event, self._cursor(next_ms, ahead=1).token()), next_ms
