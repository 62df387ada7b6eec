"""The trades of a followed instrument on their way to clients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Protocol

from marketd.domain.bar import Tick
from marketd.domain.instrument import Instrument
from marketd.domain.timerange import TimeRange
from marketd.streaming.broadcast import BroadcastManager, Channel, Subscription
from marketd.streaming.events import GapEvent, HealthEvent, TapeNews, TickEvent
from marketd.streaming.messages import Message, tape_message
from marketd.streaming.outbox import Outbox
from marketd.streaming.ring import Cursor, Ring

# The most trades that wait for a client which catches up.
_MOST_WAITING = 100_000
# How long a trade may be on its way into the store, by whatever node.
_LATE_MS = 10_000


class TapeListener(Protocol):
    """Who is told of an instrument's trades within this process. Nothing here blocks."""

    def stored(self, ticks: Sequence[Tick], seq: int) -> None:
        """Takes trades, ascending, that are new in the store, also of the past; see TickEvent."""

    def take(self, event: GapEvent | HealthEvent) -> None:
        """Takes what else has happened."""


class TapeSubscription(Subscription):
    """One client's subscription to the trades of an instrument."""

    __slots__ = ("_count", "instrument")

    def __init__(self, instrument: Instrument, outbox: Outbox) -> None:
        super().__init__(outbox)
        self.instrument = instrument
        self._count = 0

    def keep(self, message: Message) -> None:
        """See Subscription."""
        self._count += len(message.ticks.ticks) if message.ticks else 1
        if self._count <= _MOST_WAITING:
            self._waiting.append(message)
        else:
            self.outbox.give_up()

    def has_read(self, reach: TimeRange, seq: int) -> None:
        """Of what waits, drops the trades of `reach` that had been told when history was read.

        `seq` says up to where they had: history holds them, and tells them itself.
        """
        waiting: list[Message] = []
        for message in self._waiting:
            event = message.ticks
            if event is not None and event.seq <= seq:
                left = [one for one in event.ticks if not reach.start_ms <= one[0] < reach.end_ms]
                if not left:
                    continue
                if len(left) < len(event.ticks):
                    message = tape_message(
                        self.instrument, TickEvent(left, event.seq), message.body["cursor"]
                    )
            waiting.append(message)
        self._waiting = waiting


class TapeStream:
    """Publishes an instrument's trades, and keeps them a while for who comes back.

    `told_ms` is the time of the newest that was published, at first that from which on it will.
    """

    def __init__(
        self,
        instrument: Instrument,
        since_ms: int,
        broadcast: BroadcastManager,
        *,
        ring_size: int,
        on_written: Callable[[int], None],
    ) -> None:
        self.instrument = instrument
        self.told_ms = since_ms
        self.ring = Ring(instrument, ring_size, since_ms)
        self.health = HealthEvent("live", "")
        self.channel = Channel(broadcast)
        self.listeners: set[TapeListener] = set()
        self._since_ms = since_ms
        self._has_told = False
        # Given the time of a trade, once its clients have been written to.
        self._on_written = on_written

    @property
    def cursor(self) -> Cursor:
        """The cursor of a client that has been told everything."""
        return self.ring.cursor(self.told_ms)

    def told(self, ticks: Sequence[Tick], seq: int, is_live: bool) -> None:
        """Publishes trades that are new in the store, the `seq`th time.

        Of those that no stream has said, what is much older than this one is history's. What is not may
        be of another node, whose word was lost.
        """
        for listener in self.listeners:
            listener.stored(ticks, seq)
        if not is_live:
            ticks = [tick for tick in ticks if tick[0] >= self._since_ms - _LATE_MS]
        if ticks:
            newest_ms = ticks[-1][0]
            # The first were on their way when this began: who knows them knows no later ones.
            self.told_ms = max(self.told_ms, newest_ms) if self._has_told else newest_ms
            self._has_told = True
            on_written = partial(self._on_written, newest_ms) if is_live else None
            self._publish(TickEvent(ticks, seq), on_written)

    def take(self, event: GapEvent | HealthEvent) -> None:
        """Publishes what else is to be said."""
        if isinstance(event, HealthEvent):
            self.health = event
        for listener in self.listeners:
            listener.take(event)
        self._publish(event)

    def greet(self, subscription: TapeSubscription) -> None:
        """Adds a subscription, and tells it at once if the feed is not well."""
        self.channel.add(subscription)
        if self.health.state != "live":
            message = tape_message(self.instrument, self.health, self.cursor.token())
            subscription.keep(message)

    def _publish(self, event: TapeNews, on_written: Callable[[], None] | None = None) -> None:
        lasts = not isinstance(event, HealthEvent)
        cursor = self.ring.cursor(self.told_ms, ahead=1 if lasts else 0).token()
        message = tape_message(self.instrument, event, cursor)
        if lasts:
            self.ring.add(message, self.told_ms)
        self.channel.publish(message, on_written)
