"""One client's subscription to one stream: live waits until what comes before it has been sent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Generic

from marketd.streaming.messages import Message, S
from marketd.streaming.outbox import Outbox

_MOST_WAITING = 10_000


class Subscription(Generic[S]):
    """A stream's way to one client. While the client catches up with history, live waits here."""

    __slots__ = ("_outbox", "_waiting", "series")

    def __init__(self, series: S, outbox: Outbox) -> None:
        self.series = series
        self._outbox = outbox
        self._waiting: list[Message] | None = []

    def deliver(self, message: Message) -> None:
        """Hands on what has happened, or keeps it until `go_live`. Never blocks."""
        if self._waiting is None:
            self._outbox.put_news(self, message)
            return
        if self._waiting and not (self._waiting[-1].lasts or message.lasts):
            self._waiting.pop()
        if len(self._waiting) < _MOST_WAITING:
            self._waiting.append(message)
        else:
            self._outbox.give_up()

    async def send(self, messages: Sequence[Message]) -> None:
        """Sends what comes before live, once the client has taken what was sent before."""
        await self._outbox.put_bulk(messages)

    def go_live(self) -> None:
        """Sends what has waited; from now on nothing waits."""
        waiting, self._waiting = self._waiting, None
        for message in waiting or ():
            self.deliver(message)
