"""From the provider into the store: page by page, each page by one caller, stored before it is used."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from marketd.domain.bar import Bar, select
from marketd.domain.coverage import Covered, Reason, cover, lay, proven
from marketd.domain.errors import NotReady, ProviderFailed, ProviderRateLimited, StorageFailed
from marketd.domain.instrument import Series
from marketd.domain.timeframe import Timeframe
from marketd.domain.timerange import MAX_MS, MIN_MS, TimeRange, merge, subtract
from marketd.market.ranges import RangeLocks
from marketd.market.time_bars import TimeBarFeed
from marketd.metrics import Metrics
from marketd.plugins.feed import Feed
from marketd.plugins.guard import Turn
from marketd.plugins.pages import Fetched
from marketd.storage import Storage, Stored

log = logging.getLogger(__name__)

_TAIL_FRESH_MS = 1_000
_TAILS_KEPT = 4_096
# A shorter time without a bar is an ordinary quiet moment, not worth a row of coverage of its own.
_QUIET_BARS = 1_000


class Filling(NamedTuple):
    """What a fill has brought: how many bars, where none can be had, and what it has changed.

    `refused` is where the provider's bars had to be refused (`is_garbled`), or it keeps them no more,
    and `untold` where somebody may still say what there is.
    """

    bars: int = 0
    refused: Sequence[TimeRange] = ()
    untold: Sequence[TimeRange] = ()
    is_garbled: bool = False
    inserted: int = 0
    revised: int = 0

    def plus(self, page: _Page, refused: Sequence[TimeRange]) -> Filling:
        """With what one more page has brought."""
        return Filling(
            self.bars + len(page.bars),
            [*self.refused, *refused],
            [*self.untold, *page.untold],
            self.is_garbled or (page.begins_ms is None and bool(page.refused)),
            self.inserted + page.inserted,
            self.revised + page.revised,
        )


class _Page(NamedTuple):
    """What is known up to `end_ms` since a page was fetched, or since others have fetched it."""

    end_ms: int
    bars: list[Bar]
    refused: list[TimeRange]
    untold: Sequence[TimeRange] = ()
    begins_ms: int | None = None
    by_others: bool = False
    inserted: int = 0
    revised: int = 0


class _Tail(NamedTuple):
    asked_at_ms: int
    start_ms: int
    bars: list[Bar]


class Filler:
    """Fills what a series lacks. Safe to call at once for the same range: nothing is fetched twice.

    Whatever of a range is not proven is asked for, also where it could not be had before.
    """

    def __init__(self, storage: Storage, metrics: Metrics) -> None:
        self._storage = storage
        self._metrics = metrics
        self._locks = RangeLocks()
        self._tails: dict[Series, _Tail] = {}

    async def fill(
        self,
        feed: Feed,
        missing: Sequence[TimeRange],
        *,
        enough: int,
        newest: bool,
        turn: Turn,
    ) -> Filling:
        """Fetches `missing` from its wanted end until `enough` bars came or all of it is proven.

        Returns early when another caller filled a part meanwhile: the caller looks again. Raises
        ProviderFailed or NotReady, ProviderRateLimited where its turn would not come in time;
        what was stored until then stays.
        """
        total = Filling()
        begins_ms = MIN_MS
        for window in _newest_windows(missing, feed.series.timeframe, enough) if newest else missing:
            cursor = max(window.start_ms, begins_ms)
            while cursor < window.end_ms:
                page = await self._page(feed, TimeRange(cursor, window.end_ms), turn)
                cursor = page.end_ms
                refused: Sequence[TimeRange] = page.refused
                if page.begins_ms is not None:
                    begins_ms = page.begins_ms
                    older = (piece.clip(TimeRange(MIN_MS, begins_ms)) for piece in missing)
                    refused = [piece for piece in older if not piece.is_empty]
                total = total.plus(page, refused)
                # Towards the newest, a window counts only when it is whole: its end is what is wanted.
                if page.by_others or (total.bars >= enough and not newest):
                    return total
            if total.bars >= enough:
                break
        return total

    async def again(self, feed: Feed, span: TimeRange, *, turn: Turn) -> Filling:
        """Fetches all of `span`, also what is proven, and stores what has changed."""
        total = Filling()
        cursor = span.start_ms
        while cursor < span.end_ms:
            rest = TimeRange(cursor, span.end_ms)
            async with self._locks.hold(feed.series, rest):
                page = await self._fetch(feed, rest, turn, again=True)
            cursor = page.end_ms
            total = total.plus(page, page.refused)
        return total

    async def remake(self, feed: TimeBarFeed, span: TimeRange) -> None:
        """Makes the bars of `span` that are proven once more, of the trades that are stored by now."""
        async with self._locks.hold(feed.series, span):
            known = await self._storage.read(feed.series, span, limit=0)
            for piece in proven(known.coverage):
                bars = await feed.stored(piece.clip(span))
                if bars:
                    await self._store(feed, bars, [], at_ms=feed.provider.now_ms())

    async def tail(self, feed: Feed, start_ms: int, *, turn: Turn) -> list[Bar]:
        """The bars from `start_ms`, which is not before the settled end, up to the forming one.

        Asked of the provider unless that was done less than a second (of its time) ago.
        """
        timeframe = feed.series.timeframe
        async with self._locks.hold(feed.series, TimeRange(start_ms, MAX_MS)) as has_waited:
            now_ms = feed.provider.now_ms()
            kept = self._tails.get(feed.series)
            if (
                kept is not None
                and 0 <= now_ms - kept.asked_at_ms < _TAIL_FRESH_MS
                and kept.start_ms <= start_ms
                and timeframe.floor(kept.asked_at_ms) == timeframe.floor(now_ms)
            ):
                self._spared(feed, has_waited=has_waited)
                return [bar for bar in kept.bars if bar[0] >= start_ms]
            bars: list[Bar] = []
            cursor, end_ms = start_ms, timeframe.end(now_ms)
            while cursor < end_ms:
                page = await self._fetch(feed, TimeRange(cursor, end_ms), turn)
                cursor = page.end_ms
                bars += page.bars
            self._keep_tail(feed.series, _Tail(now_ms, start_ms, bars))
            return bars

    async def _page(self, feed: Feed, span: TimeRange, turn: Turn) -> _Page:
        """The first page of what `span` lacks, fetched and stored unless others have done it."""
        async with self._locks.hold(feed.series, span) as has_waited:
            stored = await self._storage.read(feed.series, span, limit=0)
            missing = subtract(span, proven(stored.coverage))
            if not missing or missing[0].start_ms > span.start_ms:
                self._spared(feed, has_waited=has_waited)
                return _Page(missing[0].start_ms if missing else span.end_ms, [], [], by_others=True)
            try:
                return await self._fetch(feed, missing[0], turn)
            except ProviderRateLimited:
                # That it had no room in time says nothing of what it has.
                raise
            except (ProviderFailed, NotReady):
                await self._note_failure(feed, missing[0], stored.coverage)
                raise

    async def _fetch(self, feed: Feed, span: TimeRange, turn: Turn, *, again: bool = False) -> _Page:
        series = feed.series
        asked_at_ms, closed_ms, settled_ms = feed.present()
        shut = feed.closed(span)
        asked = _without_ends(span, shut)
        page = Fetched([], asked.end_ms, [])
        if not asked.is_empty:
            page = await feed.fetch(asked, turn, again=again)
        if page.end_ms == asked.end_ms:
            page = page._replace(end_ms=span.end_ms)
        inserted = revised = 0
        closed = [bar for bar in page.bars if bar[0] < closed_ms]
        answered = TimeRange(span.start_ms, min(page.end_ms, settled_ms))
        covered = _statements(answered, page, shut, series.timeframe)
        if closed or covered:
            stored = await self._store(feed, closed, covered, at_ms=asked_at_ms)
            inserted, revised = stored.inserted, len(stored.revised)
        if page.end_ms > closed_ms:
            # Whoever asked for the end of the past will want the tail next.
            start_ms = max(settled_ms, span.start_ms)
            bars = [bar for bar in page.bars if bar[0] >= start_ms]
            self._keep_tail(series, _Tail(asked_at_ms, start_ms, bars))
        return _Page(
            page.end_ms,
            page.bars,
            page.refused,
            page.untold,
            page.begins_ms,
            inserted=inserted,
            revised=revised,
        )

    async def _store(
        self, feed: Feed, bars: Sequence[Bar], covered: Sequence[Covered], *, at_ms: int
    ) -> Stored:
        stored = await self._storage.store(feed.series, bars, covered, at_ms=at_ms, fence=feed.fence)
        name = feed.provider.name
        self._metrics.bars_stored.labels(name).inc(stored.inserted)
        self._metrics.bars_revised.labels(name).inc(len(stored.revised))
        return stored

    async def _note_failure(self, feed: Feed, span: TimeRange, coverage: list[Covered]) -> None:
        """Keeps that the provider has failed, where nothing is known yet: at most once for a range."""
        settled = span.clip(TimeRange(MIN_MS, feed.present().settled_end_ms))
        silent = subtract(settled, [one.range for one in coverage])
        if not silent:
            return
        failed = cover(silent, Reason.FEED_DOWN)
        try:
            await self._storage.store(
                feed.series, [], failed, at_ms=feed.provider.now_ms(), fence=feed.fence
            )
        except StorageFailed as error:
            # Whoever asked gets what is stored all the same, and hears why there is no more.
            log.warning("failure not kept series=%s reason=%s", feed.series, error.message)

    def _spared(self, feed: Feed, *, has_waited: bool) -> None:
        """Counts a call that another caller has made meanwhile."""
        if has_waited:
            self._metrics.reads_coalesced.labels(feed.provider.name).inc()

    def _keep_tail(self, series: Series, tail: _Tail) -> None:
        self._tails.pop(series, None)
        if len(self._tails) >= _TAILS_KEPT:
            del self._tails[next(iter(self._tails))]
        self._tails[series] = tail


def _without_ends(span: TimeRange, shut: Sequence[TimeRange]) -> TimeRange:
    """`span` without what is `shut` at its ends; empty if all of it is."""
    open_ = subtract(span, shut)
    return (
        TimeRange(open_[0].start_ms, open_[-1].end_ms) if open_ else TimeRange(span.end_ms, span.end_ms)
    )


def _statements(
    answered: TimeRange, page: Fetched, shut: Sequence[TimeRange], timeframe: Timeframe
) -> list[Covered]:
    """What `page` says of the range that it answers for."""
    if answered.is_empty:
        return []
    quiet = not page.bars and answered.end_ms - answered.start_ms >= _QUIET_BARS * timeframe.nominal_ms
    # A bar is right where a calendar is wrong.
    pauses = [
        piece.clip(answered)
        for piece in shut
        if not select(page.bars, since=piece.start_ms, before=piece.end_ms)
    ]
    said = [Covered(*answered, Reason.NO_TRADES if quiet else Reason.DATA)]
    refused = merge(piece.clip(answered) for piece in page.refused)
    unproven = merge([*refused, *page.untold])
    proofs = [
        Covered(*rest, one.reason)
        for one in lay(said, cover(pauses, Reason.CLOSED))
        for rest in subtract(one.range, unproven)
    ]
    return [*proofs, *cover(refused, Reason.UNRECOVERABLE)]


def _newest_windows(
    missing: Sequence[TimeRange], timeframe: Timeframe, enough: int
) -> Iterator[TimeRange]:
    """`missing` cut into windows from its end backwards, each twice as long as the one before.

    The first would hold `enough` bars if no interval were without one; a sparse market takes more.
    """
    size_ms = (enough + 1) * timeframe.nominal_ms  # one more: the newest interval is still forming
    for piece in reversed(missing):
        end_ms = piece.end_ms
        while end_ms > piece.start_ms:
            start_ms = max(piece.start_ms, timeframe.floor(max(0, end_ms - size_ms)))
            yield TimeRange(start_ms, end_ms)
            end_ms = start_ms
            size_ms *= 2
