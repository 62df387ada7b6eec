"""Bars that a provider does not have, made of its trades."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass

from marketd.domain.bar import Bar, Tick
from marketd.domain.instrument import Instrument, Series
from marketd.domain.tick_bars import bars_of_ticks
from marketd.domain.timeframe import Timeframe
from marketd.domain.timerange import EVER, MIN_MS, TimeRange, merge, subtract
from marketd.market.tapes import Tapes
from marketd.plugins.feed import Feed, Present, TickFeed
from marketd.plugins.guard import NOW, Turn
from marketd.plugins.pages import Fetched
from marketd.plugins.provider import Provider
from marketd.plugins.ticks import FetchedTicks


@dataclass(frozen=True, slots=True, kw_only=True)
class TimeBarFeed(Feed):
    """A base series that trades make up.

    Bars that closed within `late_ms` are made of the stored trades, whoever brought them; those before
    of what the provider tells, of which nothing is stored but the bars. Where it tells nothing of the
    past, all are made of stored trades, and an interval that was not followed as a whole is a gap.
    """

    tapes: Tapes
    late_ms: int

    @property
    def tape(self) -> TickFeed:
        """The trades that its bars are made of."""
        return TickFeed(self.provider, self.series.instrument)

    @property
    def known_ms(self) -> int:
        """See Feed.known_ms; the present where nobody follows them."""
        return self.tapes.known_ms(self.tape)

    async def fetch(self, span: TimeRange, turn: Turn = NOW, *, again: bool = False) -> Fetched:
        """See Feed.fetch: as many bars as the pages of trades of one interval hold."""
        if self.is_of_live_trades:
            return await self._fetch_live(span)
        recent_ms = self.series.timeframe.floor(self.provider.now_ms() - self.late_ms - 1)

        async def page(part: TimeRange) -> FetchedTicks:
            if part.start_ms < recent_ms:
                older = TimeRange(part.start_ms, min(part.end_ms, recent_ms))
                return await self.provider.fetch_ticks(self.series.instrument.symbol, older, turn)
            return await self.tapes.page(self.tape, part, turn, again=again)

        return await fetch_bars(page, self.series.timeframe, span)

    def present(self) -> Present:
        """See Feed.present. What a stream has still to tell is not settled."""
        present = Feed.present(self)
        if not self.is_of_live_trades:
            return present
        known_ms = self.series.timeframe.floor(self.known_ms)
        return present._replace(settled_end_ms=min(present.settled_end_ms, known_ms))

    async def _fetch_live(self, span: TimeRange) -> Fetched:
        lost_ms, known_ms = self.tapes.lost_ms(self.tape), self.known_ms
        timeframe = self.series.timeframe
        _, closed_ms, settled_ms = self.present()
        untold: list[TimeRange] = []

        async def page(part: TimeRange) -> FetchedTicks:
            read = await self.tapes.stored(self.tape, part)
            waited_for = merge(piece.clip(TimeRange(lost_ms, known_ms)) for piece in read.untold)
            untold.extend(waited_for)
            known = [piece.clip(TimeRange(MIN_MS, known_ms)) for piece in read.refused]
            return read._replace(refused=[rest for one in known for rest in subtract(one, waited_for)])

        read = await fetch_bars(page, timeframe, span)
        untold = _intervals(untold, timeframe)
        # A closed bar of which trades may still be told is none yet.
        bars = [bar for bar in _without(read.bars, untold) if bar[0] < settled_ms or bar[0] >= closed_ms]
        told = TimeRange(span.start_ms, read.end_ms)
        return read._replace(bars=bars, untold=[piece.clip(told) for piece in untold])

    async def stored(self, span: TimeRange) -> list[Bar]:
        """The bars of `span` as the stored trades make them up, where those are all there are."""
        bars: list[Bar] = []
        while not span.is_empty:
            page = await fetch_bars(
                lambda part: self.tapes.stored(self.tape, part), self.series.timeframe, span
            )
            bars += page.bars
            span = TimeRange(page.end_ms, span.end_ms)
        return bars


class TimeBars:
    """The series that trades make up."""

    def __init__(self, tapes: Tapes, *, late_ms: int) -> None:
        self._tapes = tapes
        self._late_ms = late_ms

    def feed(
        self, provider: Provider, instrument: Instrument, base: Timeframe, life: TimeRange = EVER
    ) -> TimeBarFeed:
        """The series of `base`, one of `provider.made_of_ticks`."""
        series = Series(instrument, base)
        return TimeBarFeed(provider, series, {}, life, tapes=self._tapes, late_ms=self._late_ms)


async def fetch_bars(
    fetch: Callable[[TimeRange], Awaitable[FetchedTicks]], timeframe: Timeframe, span: TimeRange
) -> Fetched:
    """The first bars of `span`, closed and forming: as many as the pages of trades of one interval hold.

    `fetch` gives a page of trades. An interval of which trades were refused or are gone proves nothing.
    """
    # A bar that opens in the span may hold trades after it.
    whole = TimeRange(timeframe.ceil(span.start_ms), timeframe.ceil(span.end_ms))
    ticks: list[Tick] = []
    refused: list[TimeRange] = []
    cursor = whole.start_ms
    while cursor < whole.end_ms:
        page = await fetch(TimeRange(cursor, whole.end_ms))
        # What a page's end cuts through is told again by the next.
        ticks += [tick for tick in page.ticks if tick[0] < page.end_ms]
        refused += page.refused
        cursor = page.end_ms
        if timeframe.floor(cursor) > whole.start_ms:
            break
    end_ms = timeframe.floor(cursor)
    spoilt = _intervals(refused, timeframe)
    bars = await asyncio.to_thread(bars_of_ticks, ticks, timeframe)
    good = [bar for bar in _without(bars, spoilt) if bar[0] < end_ms]
    told = TimeRange(span.start_ms, span.end_ms if end_ms >= whole.end_ms else end_ms)
    clipped = [piece.clip(told) for piece in spoilt]
    return Fetched(good, told.end_ms, [piece for piece in clipped if not piece.is_empty])


def _intervals(pieces: Iterable[TimeRange], timeframe: Timeframe) -> list[TimeRange]:
    """The intervals that `pieces` (in any order) touch."""
    return merge(
        TimeRange(timeframe.floor(piece.start_ms), timeframe.ceil(piece.end_ms)) for piece in pieces
    )


def _without(bars: Iterable[Bar], ranges: Sequence[TimeRange]) -> list[Bar]:
    return [bar for bar in bars if not any(one.start_ms <= bar[0] < one.end_ms for one in ranges)]
