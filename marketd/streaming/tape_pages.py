"""Stored trades for clients that join, in pages: what a crowd asks for is read and encoded once."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol

from marketd.domain.bar import Tick
from marketd.domain.coverage import Gap, Reason
from marketd.domain.errors import MarketdError
from marketd.domain.instrument import Instrument
from marketd.domain.timerange import MAX_MS, TimeRange
from marketd.streaming.messages import Message, gap_message, ticks_snapshot_message
from marketd.streaming.ring import Cursor

_PAGE = 2_000
_KEPT = 8


class Read(Protocol):
    """Trades of the past: all there are in `reach`, but for `gaps`; see TickEvent of `seq`."""

    @property
    def ticks(self) -> Sequence[Tick]: ...
    @property
    def gaps(self) -> Sequence[Gap]: ...
    @property
    def seq(self) -> int: ...


class TapePage:
    """The trades of `span` as of the news `seq`; the last page has all that there are."""

    def __init__(
        self,
        instrument: Instrument,
        span: TimeRange,
        ticks: Sequence[Tick],
        gaps: Sequence[Gap],
        seq: int,
        *,
        is_failed: bool = False,
    ) -> None:
        self.span = span
        self.seq = seq
        self.is_failed = is_failed
        self._instrument = instrument
        self._ticks = ticks
        self._gaps = gaps
        self._messages: tuple[TimeRange, Cursor, list[Message]] | None = None

    @property
    def is_last(self) -> bool:
        return self.span.end_ms == MAX_MS

    @property
    def newest_ms(self) -> int:
        """The time of the newest trade, or 0 without any."""
        return self._ticks[-1][0] if self._ticks else 0

    @property
    def may_be_kept(self) -> bool:
        """False if something is missing in it that may come without making news."""
        return not self.is_failed and all(
            gap.reason is Reason.UNRECOVERABLE or (self.is_last and gap is self._gaps[-1])
            for gap in self._gaps
        )

    def missing(self, known: TimeRange) -> list[Gap]:
        """What is missing of a time; behind that live tells."""
        clipped = [gap.clip(known) for gap in self._gaps]
        return [gap for gap in clipped if not gap.range.is_empty]

    def messages(self, known: TimeRange, until: Cursor) -> list[Message]:
        """What a client is told that has `until` then; of what is missing, that of `known`."""
        if self._messages is None or self._messages[:2] != (known, until):
            gaps = self.missing(known)
            snapshot = ticks_snapshot_message(
                self._instrument, self._ticks, complete=not gaps, cursor=until.token()
            )
            told = [snapshot, *(gap_message(self._instrument, gap) for gap in gaps)]
            self._messages = (known, until, told)
        return self._messages[2]


class _Reading:
    """A page that somebody is reading; None to those who wait if that one has given up."""

    def __init__(self) -> None:
        self.page: asyncio.Future[TapePage | None] = asyncio.get_running_loop().create_future()
        # The newest of the news that came meanwhile, and its newest trade.
        self.seq = 0
        self.newest_ms = 0


class TapePages:
    """The pages of one instrument. `read` gives the first trades of a range, up to a number."""

    def __init__(
        self, instrument: Instrument, read: Callable[[TimeRange, int], Awaitable[Read]]
    ) -> None:
        self._instrument = instrument
        self._read = read
        self._reading: dict[int, _Reading] = {}
        self._kept: OrderedDict[int, TapePage] = OrderedDict()

    async def page(self, since_ms: int, seq: int) -> TapePage:
        """The first page from a time on, for who is told the news after `seq` live.

        A history that cannot be had is a gap.
        """
        while (page := self._kept.get(since_ms)) is None:
            reading = self._reading.get(since_ms)
            if reading is None:
                return await self._fresh(since_ms)
            await asyncio.wait([reading.page])
            page = reading.page.result()
            if page is not None and (page.is_failed or page.seq >= seq):
                break
        return page

    def stored(self, ticks: Sequence[Tick], seq: int) -> None:
        """Takes trades, ascending, that are new in the store, and how many news there have been."""
        for since_ms, page in list(self._kept.items()):
            if any(page.span.start_ms <= tick[0] < page.span.end_ms for tick in ticks):
                del self._kept[since_ms]
        for reading in self._reading.values():
            reading.seq = seq
            reading.newest_ms = max(reading.newest_ms, ticks[-1][0])

    async def _fresh(self, since_ms: int) -> TapePage:
        reading = self._reading[since_ms] = _Reading()
        page: TapePage | None = None
        try:
            page = await self._whole(since_ms)
        except MarketdError:
            ever = TimeRange(since_ms, MAX_MS)
            gap = Gap(*ever, Reason.FEED_DOWN)
            page = TapePage(self._instrument, ever, [], [gap], 0, is_failed=True)
        finally:
            del self._reading[since_ms]
            reading.page.set_result(page)
        is_stale = reading.seq > page.seq and reading.newest_ms >= since_ms
        if page.may_be_kept and not is_stale:
            self._kept[since_ms] = page
            if len(self._kept) > _KEPT:
                self._kept.popitem(last=False)
        return page

    async def _whole(self, since_ms: int) -> TapePage:
        """A page ends between milliseconds: one that is larger than a page makes it larger."""
        limit = _PAGE
        while True:
            read = await self._read(TimeRange(since_ms, MAX_MS), limit)
            end_ms = MAX_MS if len(read.ticks) < limit else read.ticks[-1][0]
            if end_ms > since_ms:
                ticks = [tick for tick in read.ticks if tick[0] < end_ms]
                span = TimeRange(since_ms, end_ms)
                gaps = [gap.clip(span) for gap in read.gaps if gap.start_ms < end_ms]
                return TapePage(self._instrument, span, ticks, gaps, read.seq)
            limit *= 2
