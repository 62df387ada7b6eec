"""One client's subscription to one stream: history first, if it wants any, then live, joined exactly."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from marketd.domain.bar import Bar
from marketd.domain.coverage import Gap, Reason
from marketd.domain.errors import MarketdError
from marketd.domain.instrument import Series
from marketd.plugins.feed import Feed
from marketd.streaming.events import BarEvent, Event
from marketd.streaming.messages import Message, gap_message, snapshot_message
from marketd.streaming.outbox import Outbox

_PAGE = 2_000
_MOST_WAITING = 10_000


class PastBars(NamedTuple):
    """Closed bars, ascending: all there are up to `end_ms`, but for `gaps`."""

    bars: list[Bar]
    end_ms: int
    gaps: list[Gap]


class Past(Protocol):
    """What a subscription needs of history."""

    async def past(self, feed: Feed, series: Series, *, since: int, before: int, limit: int) -> PastBars:
        """The first `limit` closed bars of `series`, which `feed` makes up, in `[since, before)`."""


class Subscription:
    """A stream's way to one client. While the client catches up with history, live waits here."""

    def __init__(self, series: Series, outbox: Outbox) -> None:
        self.series = series
        self._outbox = outbox
        self._waiting: list[tuple[Event, Message]] | None = []

    def deliver(self, event: Event, message: Message) -> None:
        """Hands on what has happened, or keeps it until `go_live`. Never blocks."""
        if self._waiting is None:
            if isinstance(event, BarEvent):
                self._outbox.put_bar(self, message, closed=event.closed)
            else:
                self._outbox.put(message)
            return
        if self._waiting and _forms(self._waiting[-1][0]) and _forms(event):
            self._waiting.pop()
        if len(self._waiting) < _MOST_WAITING:
            self._waiting.append((event, message))
        else:
            self._outbox.give_up()

    def go_live(self) -> None:
        """Sends what has waited; from now on nothing waits."""
        waiting, self._waiting = self._waiting, None
        for event, message in waiting or ():
            self.deliver(event, message)

    async def catch_up(self, past: Past, feed: Feed, *, since: int, before: int) -> bool:
        """Sends the closed bars of `[since, before)` as snapshots; `before` is where live begins.

        A history that cannot be had is told as a gap; the answer says whether all of it was sent.
        """
        complete = True
        next_ms = since
        while True:
            try:
                page = await past.past(feed, self.series, since=next_ms, before=before, limit=_PAGE)
            except MarketdError:
                page = PastBars([], before, [Gap(next_ms, before, Reason.FEED_DOWN)])
            next_ms = max(page.end_ms, next_ms)
            complete = complete and not page.gaps
            snapshot = snapshot_message(self.series, page.bars, complete=not page.gaps, next_ms=next_ms)
            gaps = [gap_message(self.series, gap) for gap in page.gaps]
            await self._outbox.put_bulk([snapshot, *gaps])
            if next_ms >= before:
                return complete


def _forms(event: Event) -> bool:
    return isinstance(event, BarEvent) and not event.closed
