"""From a stream to its clients: what it says in one turn of the loop is joined once for all."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence

from marketd.domain.errors import LimitExceeded
from marketd.metrics import Metrics
from marketd.streaming.messages import Format, Message
from marketd.streaming.outbox import Outbox

# How many clients are written to before the loop turns, which takes some milliseconds.
_AT_ONCE = 2_000


class BroadcastManager:
    """Writes to clients, once when the loop turns, all that has come for them in that turn.

    One errand for all: an event for a thousand clients costs the loop one call, not a thousand; what is
    for more of them takes several turns. There may be `most_channels`, of bars and of trades together.
    """

    def __init__(self, metrics: Metrics, *, most_channels: int) -> None:
        self.metrics = metrics
        self.open_channels = 0
        self._most_channels = most_channels
        # Those on which something was said in this turn, and what to do once it was written.
        self._channels: list[Channel] = []
        self._after: list[Callable[[], None]] = []
        # Outboxes to empty, and what to do once those before it are.
        self._due: deque[Outbox | Callable[[], None]] = deque()
        self._is_called = False

    def check_room(self, new: int) -> None:
        """LimitExceeded if so many new channels would be too many."""
        if self.open_channels + new > self._most_channels:
            raise LimitExceeded(
                f"All clients together may follow {self._most_channels} streams (max_streams)."
            )

    def call(self, outbox: Outbox) -> None:
        """Asks for `outbox` to be emptied."""
        self._due.append(outbox)
        self._call()

    def call_channel(self, channel: Channel) -> None:
        """Asks for what was said on `channel` to be passed on in this turn."""
        self._channels.append(channel)
        self._call()

    def call_after(self, on_written: Callable[[], None]) -> None:
        """Asks for a call once all clients have been written what was said until now."""
        self._after.append(on_written)
        self._call()

    def _call(self) -> None:
        if not self._is_called:
            self._is_called = True
            asyncio.get_running_loop().call_soon(self._deliver)

    def _deliver(self) -> None:
        room = _AT_ONCE
        channels, self._channels = self._channels, []
        for channel in channels:
            # For most clients the last one is the only one; what others have said waits for it.
            room -= channel.pass_on(room if channel is channels[-1] else 0)
        self._due += self._after
        self._after = []
        written = messages = 0
        while self._due and room > 0:
            due = self._due.popleft()
            if isinstance(due, Outbox):
                written += due.waiting
                messages += due.write()
                room -= 1
            else:
                due()
        self.metrics.stream_bytes.inc(written)
        self.metrics.stream_messages.inc(messages)
        self._is_called = False
        if self._due:
            self._call()


class Channel:
    """Those who follow one stream. Publishing only enqueues: it never waits for a client.

    It counts as open from its first client on until it is closed.
    """

    def __init__(self, broadcast: BroadcastManager) -> None:
        self.is_open = False
        self._broadcast = broadcast
        self._metrics = broadcast.metrics
        self._joining: set[Subscription] = set()
        # Of those who have joined there are many: apart by format, so that none is asked for it.
        self._live: dict[Format, dict[Outbox, Subscription]] = {how: {} for how in Format}
        # What was published in this turn, of which those who have joined know nothing yet.
        self._said: list[Message] = []

    def __len__(self) -> int:
        return len(self._joining) + sum(map(len, self._live.values()))

    def close(self) -> None:
        """Makes room for another, once nobody is left."""
        self._broadcast.open_channels -= self.is_open
        self.is_open = False

    def add(self, subscription: Subscription) -> None:
        """From now on the subscription keeps what is published, until it goes live."""
        subscription.channel = self
        self._broadcast.open_channels += not self.is_open
        self.is_open = True
        self._joining.add(subscription)
        self._metrics.stream_subscriptions.inc()
        self._metrics.stream_subscribes.inc()

    def go_live(self, subscription: Subscription) -> None:
        """From now on what is published goes into its outbox; what was said until now it has kept."""
        self.pass_on(0)
        self._joining.remove(subscription)
        self._live[subscription.outbox.format][subscription.outbox] = subscription

    def remove(self, subscription: Subscription) -> None:
        """Nothing more is for this subscription."""
        self._joining.discard(subscription)
        self._live[subscription.outbox.format].pop(subscription.outbox, None)
        self._metrics.stream_subscriptions.dec()

    def publish(self, message: Message, on_written: Callable[[], None] | None = None) -> None:
        """Tells every subscription; `on_written` is called once it was written, if there is any."""
        for subscription in self._joining:
            subscription.keep(message)
        if not self._said:
            self._broadcast.call_channel(self)
        elif not (self._said[-1].lasts or message.lasts):
            self._said.pop()
            self.conflated(len(self) - len(self._joining))
        self._said.append(message)
        if on_written is not None and len(self):
            self._broadcast.call_after(on_written)

    def conflated(self, clients: int) -> None:
        """Counts a forming bar that gave way to a newer one before so many clients took it."""
        self._metrics.stream_conflated.inc(clients)

    def pass_on(self, at_once: int) -> int:
        """Writes what was said to clients for whom nothing waits, and says how many: `at_once` at most.

        For the others it is put into their outboxes.
        """
        said, self._said = self._said, []
        written = 0
        if any(message.revised is not None for message in said):
            # Not every client is told the same of it.
            at_once = 0
        for how, live in self._live.items():
            if not said or not live:
                continue
            frames = b"".join([message.frame(how) for message in said])
            outboxes, room = list(live), at_once - written
            late = [one for one in outboxes[:room] if not one.write_through(frames)] + outboxes[room:]
            for outbox in late:
                for message in filter(None, map(live[outbox].told, said)):
                    outbox.put_news(self, message)
            reached = len(outboxes) - len(late)
            self._metrics.stream_bytes.inc(reached * len(frames))
            self._metrics.stream_messages.inc(reached * len(said))
            written += reached
        return written


class Subscription(ABC):
    """A channel's way to one client. While the client catches up with history, live waits here."""

    __slots__ = ("_waiting", "channel", "outbox")

    channel: Channel

    def __init__(self, outbox: Outbox) -> None:
        self.outbox = outbox
        self._waiting: list[Message] = []

    @abstractmethod
    def keep(self, message: Message) -> None:
        """Keeps what has happened until `go_live`; gives the client up if that becomes too much."""

    def told(self, message: Message) -> Message | None:
        """What of a message this client is told."""
        return message

    async def send(self, messages: Sequence[Message]) -> None:
        """Sends what comes before live, once the client has taken what was sent before."""
        await self.outbox.put_bulk(messages)

    def go_live(self) -> None:
        """Sends what has waited; from now on nothing waits."""
        self.channel.go_live(self)
        waiting, self._waiting = self._waiting, []
        for message in waiting:
            self.outbox.put_news(self.channel, message)
