"""The trades of a followed instrument on their way to clients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from marketd.domain.bar import Tick
from marketd.domain.instrument import Instrument
from marketd.domain.timerange import TimeRange
from marketd.streaming.events import HealthEvent, TapeNews, TickEvent
from marketd.streaming.messages import Message, tape_message
from marketd.streaming.outbox import Outbox
from marketd.streaming.ring import Cursor, Ring

# The most trades that wait for a client which catches up.
_MOST_WAITING = 100_000


class TapeListener(Protocol):
    """Who is told what becomes of an instrument's trades."""

    def deliver(self, event: TapeNews, message: Message) -> None:
        """Takes what has happened, and the message that says so. Never blocks."""


class TapeSubscription:
    """An instrument's way to one client. While the client catches up with history, live waits here."""

    def __init__(self, instrument: Instrument, outbox: Outbox) -> None:
        self.instrument = instrument
        self._outbox = outbox
        self._waiting: list[tuple[TapeNews, Message]] | None = []
        self._count = 0

    def deliver(self, event: TapeNews, message: Message) -> None:
        """Hands on what has happened, or keeps it until `go_live`. Never blocks."""
        if self._waiting is None:
            self._outbox.put(message)
            return
        self._count += len(event.ticks) if isinstance(event, TickEvent) else 1
        if self._count <= _MOST_WAITING:
            self._waiting.append((event, message))
        else:
            self._outbox.give_up()

    def has_read(self, reach: TimeRange, seq: int) -> None:
        """Of what waits, drops the trades of `reach` that had been told when history was read.

        `seq` says up to where they had: history holds them, and tells them itself.
        """
        waiting: list[tuple[TapeNews, Message]] = []
        for event, message in self._waiting or ():
            if isinstance(event, TickEvent) and event.seq <= seq:
                left = [one for one in event.ticks if not reach.start_ms <= one[0] < reach.end_ms]
                if not left:
                    continue
                if len(left) < len(event.ticks):
                    message = tape_message(
                        self.instrument, TickEvent(left, event.seq), message.body["cursor"]
                    )
            waiting.append((event, message))
        self._waiting = waiting

    async def send(self, messages: Sequence[Message]) -> None:
        """Sends what comes before live, once the client has taken what was sent before."""
        await self._outbox.put_bulk(messages)

    def go_live(self) -> None:
        """Sends what has waited; from now on nothing waits."""
        waiting, self._waiting = self._waiting, None
        for event, message in waiting or ():
            self.deliver(event, message)


class TapeStream:
    """Publishes an instrument's trades, and keeps them a while for who comes back.

    `told_ms` is the time of the newest that was published.
    """

    def __init__(self, instrument: Instrument, since_ms: int, *, ring_size: int) -> None:
        self.instrument = instrument
        self.told_ms = since_ms
        self.ring = Ring(ring_size, since_ms)
        self.health = HealthEvent("live", "")
        self.listeners: set[TapeListener] = set()
        self._since_ms = since_ms

    @property
    def cursor(self) -> Cursor:
        """The cursor of a client that has been told everything."""
        return self.ring.cursor(self.told_ms)

    def told(self, ticks: Sequence[Tick], seq: int, is_live: bool) -> None:
        """Publishes trades that are new in the store, the `seq`th time.

        Of those that no stream has said, what is older than this one is history's.
        """
        if not is_live:
            ticks = [tick for tick in ticks if tick[0] >= self._since_ms]
        if ticks:
            self.told_ms = max(self.told_ms, ticks[-1][0])
            self._publish(TickEvent(ticks, seq))

    def take(self, event: TapeNews) -> None:
        """Publishes what else is to be said."""
        if isinstance(event, HealthEvent):
            self.health = event
        self._publish(event)

    def greet(self, listener: TapeListener) -> None:
        """Adds a listener, and tells it at once if the feed is not well."""
        self.listeners.add(listener)
        if self.health.state != "live":
            message = tape_message(self.instrument, self.health, self.cursor.token())
            listener.deliver(self.health, message)

    def _publish(self, event: TapeNews) -> None:
        lasts = not isinstance(event, HealthEvent)
        cursor = self.ring.cursor(self.told_ms, ahead=1 if lasts else 0).token()
        message = tape_message(self.instrument, event, cursor)
        if lasts:
            self.ring.add(message, self.told_ms)
        for listener in self.listeners:
            listener.deliver(event, message)
