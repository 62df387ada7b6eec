"""History for clients that join, in pages: what many ask for is read once, and encoded once."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, NamedTuple, TypeAlias, TypeVar

from marketd.domain.coverage import Gap, Reason
from marketd.domain.errors import MarketdError
from marketd.domain.timerange import MIN_MS, TimeRange
from marketd.plugins.feed import Feed, TickFeed
from marketd.storage import Change
from marketd.streaming.messages import BarStream, Message, S, gap_message, snapshot_message
from marketd.streaming.needs import Past, PastBars
from marketd.streaming.ring import Cursor, Replay
from marketd.streaming.stream import BarSubscription

F = TypeVar("F", bound=Feed | TickFeed)
# What has become since a cursor of the bars before it, for a client; None if nobody can tell.
Missed: TypeAlias = Callable[[F, S, Cursor], Awaitable[list[Message] | None]]

_KEPT = 16
# How many pages of one provider are read at once: what is live waits for no more than these.
_AT_ONCE = 8
# How many messages of a replay are sent at once.
_MESSAGES_AT_ONCE = 100


class Page(NamedTuple):
    """The messages of a part of history, which ends at `end_ms` and may have gaps."""

    messages: Sequence[Message]
    end_ms: int
    is_complete: bool


class _Question(NamedTuple):
    """What is asked of the bars of a range; of those before a cursor, what has become of them."""

    base: BarStream
    series: BarStream
    since: int
    until: Cursor
    is_of_changes: bool = False


class _Reading:
    """A page that somebody is reading; None to those who wait if that one has given up."""

    def __init__(self) -> None:
        self.page: asyncio.Future[Page | None] = asyncio.get_running_loop().create_future()
        self.is_stale = False


class Pages(Generic[F, S]):
    """Reads each page of `most` bars once, also for a crowd that comes back at the same time."""

    def __init__(self, past: Past[F, S], most: int, *, missed: Missed[F, S] | None = None) -> None:
        self._past = past
        self._most = most
        self._missed = missed
        self._reading: dict[_Question, _Reading] = {}
        self._kept: OrderedDict[_Question, Page] = OrderedDict()
        self._places: dict[str, asyncio.Semaphore] = {}

    async def page(self, feed: F, series: S, since: int, until: Cursor) -> Page:
        """The first page of `[since, until.next_ms)`; of what cannot be had it says so, as gaps.

        `until` is the cursor of the client once it has all of that.
        """
        return await self._page(feed, series, _Question(_base(feed, series), series, since, until))

    async def _page(self, feed: F, series: S, question: _Question) -> Page:
        while (page := self._kept.get(question)) is None:
            reading = self._reading.get(question)
            if reading is None:
                return await self._read(feed, series, question)
            await asyncio.wait([reading.page])
            if (page := reading.page.result()) is not None:
                break
        return page

    async def send(self, feed: F, subscription: BarSubscription[S], since: int, until: Cursor) -> bool:
        """Sends the closed bars of `[since, until.next_ms)` as snapshots.

        A history that cannot be had is told as a gap; the answer says whether all of it was sent.
        """
        complete = True
        while True:
            page = await self.page(feed, subscription.series, since, until)
            await subscription.send(page.messages)
            complete = complete and page.is_complete
            since = page.end_ms
            if since >= until.next_ms:
                # What comes next finds this page gone: it may take up all the room there is.
                await subscription.send(())
                return complete

    async def resume(
        self,
        feed: F,
        subscription: BarSubscription[S],
        cursor: Cursor,
        replay: Replay | None,
        until: Cursor,
    ) -> bool:
        """Sends what a client has missed since `cursor`; False if it may lack something even so."""
        if replay is None:
            series = subscription.series
            question = _Question(_base(feed, series), series, MIN_MS, cursor, is_of_changes=True)
            changes = await self._page(feed, series, question)
            await _send_all(subscription, changes.messages)
            is_whole = await self.send(feed, subscription, cursor.next_ms, until)
            return is_whole and changes.is_complete
        whole_ms, messages = replay
        complete = True
        if cursor.next_ms < whole_ms:
            # It left in the middle of its history.
            complete = await self.send(
                feed, subscription, cursor.next_ms, cursor._replace(next_ms=whole_ms)
            )
        await _send_all(subscription, messages)
        return complete

    def changed(self, change: Change | None) -> None:
        """Forgets pages in which a bar has changed."""
        self._forget(lambda question: _touches(change, question))

    def forget(self, series: S) -> None:
        """Forgets the pages of `series`."""
        self._forget(lambda question: question.series == series)

    def _forget(self, touches: Callable[[_Question], bool]) -> None:
        for question in [one for one in self._kept if touches(one)]:
            del self._kept[question]
        for question, reading in self._reading.items():
            reading.is_stale |= touches(question)

    async def _read(self, feed: F, series: S, question: _Question) -> Page:
        reading = self._reading[question] = _Reading()
        page: Page | None = None
        try:
            places = self._places.setdefault(feed.provider.name, asyncio.Semaphore(_AT_ONCE))
            async with places:
                page = await self._fresh(feed, series, question)
        finally:
            del self._reading[question]
            reading.page.set_result(page)
        if page.is_complete and not reading.is_stale:
            self._kept[question] = page
            if len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        return page

    async def _fresh(self, feed: F, series: S, question: _Question) -> Page:
        since, until = question.since, question.until
        if question.is_of_changes:
            told = None if self._missed is None else await self._missed(feed, series, until)
            return Page(told or [], until.next_ms, told is not None)
        try:
            past = await self._past.past(
                feed, series, since=since, before=until.next_ms, limit=self._most
            )
        except MarketdError:
            past = PastBars([], until.next_ms, [Gap(since, until.next_ms, Reason.FEED_DOWN)])
        end_ms = max(past.end_ms, since)
        # Who asks from a time to come has been told nothing before it.
        cursor = until._replace(next_ms=min(end_ms, until.next_ms)).token()
        snapshot = snapshot_message(series, past.bars, complete=not past.gaps, cursor=cursor)
        gaps = [gap_message(series, gap) for gap in past.gaps]
        return Page([snapshot, *gaps], end_ms, not past.gaps)


def _base(feed: Feed | TickFeed, series: BarStream) -> BarStream:
    """What is stored of `series`."""
    return feed.series if isinstance(feed, Feed) else series


async def _send_all(subscription: BarSubscription[S], messages: Sequence[Message]) -> None:
    for first in range(0, len(messages), _MESSAGES_AT_ONCE):
        await subscription.send(messages[first : first + _MESSAGES_AT_ONCE])


def _touches(change: Change | None, question: _Question) -> bool:
    if change is None:
        return True
    asked = TimeRange(question.since, question.until.next_ms)
    return change.series == question.base and not asked.clip(change.span).is_empty
