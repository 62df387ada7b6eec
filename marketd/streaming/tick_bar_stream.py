"""Bars that are measured in trades on their way to clients."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from marketd.domain.bar import Bar
from marketd.domain.coverage import Gap
from marketd.domain.instrument import TickSeries
from marketd.streaming.broadcast import BroadcastManager, Channel
from marketd.streaming.events import BarEvent, GapEvent, HealthEvent, RevisedEvent, TickBarNews
from marketd.streaming.messages import Message, event_message
from marketd.streaming.outbox import Outbox
from marketd.streaming.ring import Cursor, Ring
from marketd.streaming.stream import BarSubscription

# The most bars in one message that revises them.
_AT_ONCE = 1_000


class TickBarSubscription(BarSubscription[TickSeries]):
    """One client's, which does not have, and is not told of, what opens before `since_ms`."""

    __slots__ = ("since_ms",)

    def __init__(self, series: TickSeries, outbox: Outbox, since_ms: int) -> None:
        super().__init__(series, outbox)
        self.since_ms = since_ms

    def told(self, message: Message) -> Message | None:
        """See Subscription."""
        return message.since(self.since_ms)

    def keep(self, message: Message) -> None:
        """See Subscription."""
        part = self.told(message)
        if part is not None:
            super().keep(part)


class TickBarStream:
    """Publishes the bars of a series once it is known where they stand, and keeps them for a while.

    From then on it is whole: every closed bar that opens at or after the `next_ms` of its first cursor
    is published, and anew, with those behind it, if it changes.
    """

    def __init__(
        self,
        series: TickSeries,
        next_ms: int,
        broadcast: BroadcastManager,
        *,
        ring_size: int,
        revised: Callable[[], None],
    ) -> None:
        self.series = series
        self.health = HealthEvent("live", "")
        self.begun: asyncio.Future[Cursor] = asyncio.get_running_loop().create_future()
        self.channel = Channel(broadcast)
        self._ring_size = ring_size
        self._revised = revised
        self.next_ms = next_ms
        self.ring = Ring(series, ring_size, next_ms)
        self._forming: BarEvent | None = None
        # Those who came before it was known where the stream begins.
        self._early: set[TickBarSubscription] = set()

    @property
    def cursor(self) -> Cursor:
        """The cursor of a client that has been told everything."""
        return self.ring.cursor(self.next_ms)

    def add(self, subscription: TickBarSubscription) -> None:
        """Adds a client, which is told the forming bar, and that its trades are not well."""
        self.channel.add(subscription)
        if self.begun.done():
            subscription.since_ms = min(subscription.since_ms, self.next_ms)
        else:
            self._early.add(subscription)
        news: list[TickBarNews] = [] if self._forming is None else [self._forming]
        if self.health.state != "live":
            news.append(self.health)
        for event in news:
            subscription.keep(self._passing(event))

    def remove(self, subscription: TickBarSubscription) -> None:
        """Removes a client."""
        self.channel.remove(subscription)
        self._early.discard(subscription)

    def begin(self, next_ms: int) -> None:
        """Says where the stream begins: with the bar that opens at `next_ms`, or the next one."""
        # A cursor of the time before knows nothing of what was said since.
        self.ring = Ring(self.series, self._ring_size, next_ms)
        self.next_ms = next_ms
        for subscription in self._early:
            subscription.since_ms = min(subscription.since_ms, next_ms)
        self._early.clear()
        self.begun.set_result(self.cursor)

    def close(self, bar: Bar, next_ms: int) -> None:
        """Tells a closed bar; the next one opens at `next_ms`."""
        self.next_ms = next_ms
        self._keep(BarEvent(bar, closed=True))

    def revise(self, start_ms: int, bars: Sequence[Bar], next_ms: int) -> None:
        """Tells what the closed bars from `start_ms` on are now; the next one opens at `next_ms`."""
        end_ms = max(self.next_ms, next_ms)
        self.next_ms = next_ms
        self._revised()
        for first in range(0, max(len(bars), 1), _AT_ONCE):
            part = bars[first : first + _AT_ONCE]
            is_last = first + _AT_ONCE >= len(bars)
            part_end_ms = end_ms if is_last else bars[first + _AT_ONCE][0]
            self._keep(RevisedEvent(start_ms, part_end_ms, part))
            start_ms = part_end_ms

    def miss(self, gap: Gap) -> None:
        """Tells a gap that bars end before, and begin anew behind."""
        self._keep(GapEvent(gap))

    def form(self, bar: Bar | None) -> None:
        """Tells the bar that forms, if it has changed."""
        event = None if bar is None else BarEvent(bar, closed=False)
        if event is not None and event != self._forming:
            self.channel.publish(self._passing(event))
        self._forming = event

    def tell(self, health: HealthEvent) -> None:
        """Says what has become of the trades behind it, once."""
        if health.state != self.health.state:
            self.health = health
            self.channel.publish(self._passing(health))

    def _keep(self, event: TickBarNews) -> None:
        """Publishes what must not be missed."""
        cursor = self.ring.cursor(self.next_ms, ahead=1)
        message = event_message(self.series, event, cursor.token())
        self.ring.add(message, self.next_ms)
        self.channel.publish(message)

    def _passing(self, event: TickBarNews) -> Message:
        return event_message(self.series, event, self.cursor.token())
