"""History for clients that join, in pages: what many ask for is read once, and encoded once."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

from marketd.domain.coverage import Gap, Reason
from marketd.domain.errors import MarketdError
from marketd.domain.instrument import Series
from marketd.domain.timerange import MIN_MS, TimeRange
from marketd.plugins.feed import Feed
from marketd.storage import Change, Storage
from marketd.streaming.messages import Message, gap_message, snapshot_message
from marketd.streaming.needs import Past, PastBars
from marketd.streaming.revisions import missed
from marketd.streaming.ring import Cursor

_PAGE = 2_000
_KEPT = 16
# How many pages of one provider are read at once: what is live waits for no more than these.
_AT_ONCE = 8


class Page(NamedTuple):
    """The messages of a part of history, which ends at `end_ms` and may have gaps."""

    messages: Sequence[Message]
    end_ms: int
    is_complete: bool


class _Question(NamedTuple):
    """What is asked of the bars of a range; of those before a cursor, what has become of them."""

    base: Series
    series: Series
    since: int
    until: Cursor
    is_of_changes: bool = False


class _Reading:
    """A page that somebody is reading; None to those who wait if that one has given up."""

    def __init__(self) -> None:
        self.page: asyncio.Future[Page | None] = asyncio.get_running_loop().create_future()
        self.is_stale = False


class Pages:
    """Reads each page once, also for a crowd that comes back at the same time."""

    def __init__(self, past: Past, storage: Storage) -> None:
        self._past = past
        self._storage = storage
        self._reading: dict[_Question, _Reading] = {}
        self._kept: OrderedDict[_Question, Page] = OrderedDict()
        self._places: dict[str, asyncio.Semaphore] = {}

    async def page(self, feed: Feed, series: Series, since: int, until: Cursor) -> Page:
        """The first page of `[since, until.next_ms)`; of what cannot be had it says so, as gaps.

        `until` is the cursor of the client once it has all of that.
        """
        return await self._page(feed, _Question(feed.series, series, since, until))

    async def missed(self, feed: Feed, series: Series, cursor: Cursor) -> Page:
        """What has become of the bars before `cursor` since then; not complete if nobody can tell."""
        question = _Question(feed.series, series, MIN_MS, cursor, is_of_changes=True)
        return await self._page(feed, question)

    async def _page(self, feed: Feed, question: _Question) -> Page:
        while (page := self._kept.get(question)) is None:
            reading = self._reading.get(question)
            if reading is None:
                return await self._read(feed, question)
            await asyncio.wait([reading.page])
            if (page := reading.page.result()) is not None:
                break
        return page

    def changed(self, change: Change | None) -> None:
        """Forgets pages in which a bar has changed."""
        for question in [one for one in self._kept if _touches(change, one)]:
            del self._kept[question]
        for question, reading in self._reading.items():
            reading.is_stale |= _touches(change, question)

    async def _read(self, feed: Feed, question: _Question) -> Page:
        reading = self._reading[question] = _Reading()
        page: Page | None = None
        try:
            places = self._places.setdefault(feed.provider.name, asyncio.Semaphore(_AT_ONCE))
            async with places:
                page = await self._fresh(feed, question)
        finally:
            del self._reading[question]
            reading.page.set_result(page)
        if page.is_complete and not reading.is_stale:
            self._kept[question] = page
            if len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        return page

    async def _fresh(self, feed: Feed, question: _Question) -> Page:
        _, series, since, until, is_of_changes = question
        if is_of_changes:
            told = await missed(self._storage, self._past, feed, series, until)
            return Page(told or [], until.next_ms, told is not None)
        try:
            past = await self._past.past(feed, series, since=since, before=until.next_ms, limit=_PAGE)
        except MarketdError:
            past = PastBars([], until.next_ms, [Gap(since, until.next_ms, Reason.FEED_DOWN)])
        end_ms = max(past.end_ms, since)
        cursor = until._replace(next_ms=end_ms).token()
        snapshot = snapshot_message(series, past.bars, complete=not past.gaps, cursor=cursor)
        gaps = [gap_message(series, gap) for gap in past.gaps]
        return Page([snapshot, *gaps], end_ms, not past.gaps)


def _touches(change: Change | None, question: _Question) -> bool:
    if change is None:
        return True
    asked = TimeRange(question.since, question.until.next_ms)
    return change.series == question.base and not asked.clip(change.span).is_empty
