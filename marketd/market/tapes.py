"""The trades of an instrument: from the store where that proves them, else from the provider.

Every trade goes into the store through here, from a stream as from history, so that who follows an
instrument is told each new one once, in the order in which they were stored.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

from marketd.domain.bar import Tick
from marketd.domain.coverage import Covered, Gap, Reason, cover, lay, proven
from marketd.domain.errors import NotReady, ProviderFailed, ProviderRateLimited
from marketd.domain.instrument import Instrument
from marketd.domain.timerange import MAX_MS, MIN_MS, TimeRange, merge, subtract
from marketd.market.ranges import RangeLocks
from marketd.market.tape_gaps import known, newest_known, reach_known, still_told, unproven
from marketd.market.tape_teller import TapeTeller, Told
from marketd.metrics import Metrics
from marketd.plugins.feed import TickFeed
from marketd.plugins.guard import NOW, Turn
from marketd.plugins.ticks import FetchedTicks
from marketd.storage import AddedTicks, Storage
from marketd.storage.records import reach_of_ticks

# Called with the trades of any instrument that are new in the store, and whether a stream has said them.
Came: TypeAlias = Callable[[TickFeed, Sequence[Tick], bool], None]

# The present is not asked for again within this time.
_FRESH_MS = 1_000
# The most stored trades that one page of them holds, unless a millisecond has more.
_PAGE = 20_000
# How many are looked at together that have numbers: the loop turns them into trades.
_NEWS = 2_000
# Looking for the newest trades begins with so long a time, and goes on with four times as long each.
_FIRST_WINDOW_MS = 60_000
# So long another process is waited for that may follow an instrument. It stores a trade at once, but
# that there was none only with the next one.
_OTHERS_MS = 900_000


class TapeRead(NamedTuple):
    """Trades, ascending: all there are in `reach`, but for `gaps`.

    `seq` counts the news that had been told of the instrument when it was read: these are in it; and
    `number` is that of the trade that was stored last, see `Storage.ticks_after`.
    Before `known_ms` nothing is missing that may still be had, and from `newest_ms` on nothing is known.
    `failure` is what the provider said where a gap is its fault.
    """

    ticks: list[Tick]
    reach: TimeRange
    gaps: list[Gap]
    known_ms: int
    newest_ms: int
    seq: int
    number: int
    failure: ProviderFailed | NotReady | None


class Tapes:
    """Keeps and reads the trades of instruments; safe to call at once for the same ones."""

    def __init__(self, storage: Storage, metrics: Metrics) -> None:
        self._storage = storage
        self._metrics = metrics
        self._locks = RangeLocks()
        # One an instrument that was ever asked for, of those that providers list.
        self._tapes: dict[Instrument, TapeTeller] = {}
        self._watchers: list[Came] = []

    def watch(self, came: Came) -> None:
        """Calls `came`, in the loop, whenever trades are new in the store."""
        self._watchers.append(came)

    def listen(self, feed: TickFeed, told: Told, known_ms: Callable[[], int]) -> None:
        """From now on `told` is called with the trades that are new in the store.

        `known_ms` says up to when whoever follows them has stored all, or that it cannot be had.
        """
        self._tape(feed.instrument).listen(told, known_ms, feed.provider.now_ms())

    def leave(self, feed: TickFeed) -> None:
        """Ends that."""
        self._tape(feed.instrument).leave()

    def number(self, feed: TickFeed) -> int | None:
        """Up to which number the trades in the store were told to who listens; None if not known yet."""
        return self._tape(feed.instrument).number

    async def hear(
        self, feed: TickFeed, added: AddedTicks | None, number: int, *, is_live: bool
    ) -> None:
        """Tells who listens what another process has stored.

        `added` is what it says of its latest, which has numbers up to `number`; None: it is looked up.
        """
        tape = self._tape(feed.instrument)
        async with tape.lock:
            await tape.begin()
            await tape.heard(added, number, is_live=is_live)

    async def catch_up(self, feed: TickFeed, since_ms: int) -> int:
        """Tells who listens what other processes have stored until now.

        Gives the end of the newest time from `since_ms` on of which the store knows something.
        """
        tape = self._tape(feed.instrument)
        async with tape.lock:
            await tape.begin()
            span = TimeRange(since_ms, MAX_MS)
            stored = await self._storage.read_ticks(feed.instrument, span, limit=0)
            await tape.catch_up(stored.number)
        return newest_known(stored.coverage, since_ms)

    async def make_up(self, feed: TickFeed, span: TimeRange) -> list[Gap]:
        """What of `span` cannot be had, after asking for what nothing is known of, if that is possible.

        Raises as `fill` does.
        """
        coverage = (await self._storage.read_ticks(feed.instrument, span, limit=0)).coverage
        gone = [one.clip(span) for one in coverage if one.reason is Reason.UNRECOVERABLE]
        unknown = subtract(span, merge(known(coverage)))
        if not feed.provider.has_tick_history:
            return lay([], [*gone, *cover(unknown, Reason.UNRECOVERABLE)])
        for piece in unknown:
            gone += await self.fill(feed, piece)
        return lay([], gone)

    def known_ms(self, feed: TickFeed) -> int:
        """What is not stored of the time before this will never be known, but from a history."""
        known_ms = self._tape(feed.instrument).known_ms
        return feed.provider.now_ms() if known_ms is None else known_ms()

    def lost_ms(self, feed: TickFeed) -> int:
        """What is not stored of the time before this nobody else will store, see `known_ms`."""
        is_followed = self._tape(feed.instrument).known_ms is not None
        others_ms = 0 if is_followed or not self._storage.identity else _OTHERS_MS
        return self.known_ms(feed) - others_ms

    async def earliest(self, feed: TickFeed, number: int, until: int) -> int:
        """The time of the earliest trade that was stored with a number above `number` up to `until`.

        MAX_MS if there is none.
        """
        earliest_ms = MAX_MS
        while number < until:
            news = await self._storage.ticks_after(feed.instrument, number, until=until, limit=_NEWS)
            earliest_ms = min([earliest_ms, *(one.tick[0] for one in news)])
            number = news[-1].number if len(news) == _NEWS else until
        return earliest_ms

    async def keep(
        self,
        feed: TickFeed,
        ticks: Sequence[Tick],
        covered: Sequence[Covered],
        *,
        is_live: bool = False,
    ) -> None:
        """Stores trades (ascending) with what they prove, and tells of those that are new.

        `is_live` says that a stream has just said them. A caller that is cancelled does not keep others
        from being told.
        """
        keeping = asyncio.ensure_future(self._keep(feed, ticks, covered, is_live))
        # Where nobody waits for it any more, its failure is the store's to log.
        keeping.add_done_callback(lambda done: done.cancelled() or done.exception())
        await asyncio.shield(keeping)

    async def fill(self, feed: TickFeed, span: TimeRange, turn: Turn = NOW) -> list[Gap]:
        """Fetches what of `span` is not proven, and gives what cannot be had.

        Raises ProviderFailed or NotReady; what was stored until then stays.
        """
        cursor = span.start_ms
        gaps: list[Gap] = []
        async with self._locks.hold(feed.instrument, span):
            while cursor < span.end_ms:
                rest = TimeRange(cursor, span.end_ms)
                known = await self._storage.read_ticks(feed.instrument, rest, limit=0)
                missing = subtract(rest, proven(known.coverage))
                if not missing:
                    break
                cursor, refused = await self._page(feed, missing[0], turn)
                gaps += refused
        return lay([], gaps)

    async def page(
        self, feed: TickFeed, span: TimeRange, turn: Turn, *, again: bool = False
    ) -> FetchedTicks:
        """The first trades of `span`, from the store once the provider was asked for what is not proven.

        Where it has to be asked for the very first of them, that is one page of its; with `again` it is
        asked in any case. Raises as `fill` does.
        """
        refused: list[Gap] = []
        async with self._locks.hold(feed.instrument, span):
            known = await self._storage.read_ticks(feed.instrument, span, limit=0)
            missing = [span] if again else subtract(span, proven(known.coverage))
            end_ms = missing[0].start_ms if missing else span.end_ms
            if end_ms == span.start_ms:
                end_ms, refused = await self._page(feed, missing[0], turn)
        page = await self.stored(feed, TimeRange(span.start_ms, end_ms))
        return page._replace(refused=[gap.range for gap in refused])

    async def stored(self, feed: TickFeed, span: TimeRange) -> FetchedTicks:
        """The first trades of `span` that are stored; `refused` is what of it is not proven."""
        limit = _PAGE
        while True:
            read = await self._storage.read_ticks(feed.instrument, span, limit=limit)
            end_ms = span.end_ms if len(read.ticks) < limit else read.ticks[-1][0]
            if end_ms > span.start_ms:
                told = TimeRange(span.start_ms, end_ms)
                ticks = [tick for tick in read.ticks if tick[0] < end_ms]
                untold = subtract(told, [one.range for one in read.coverage])
                return FetchedTicks(ticks, end_ms, subtract(told, proven(read.coverage)), untold)
            limit *= 2

    async def read(
        self,
        feed: TickFeed,
        span: TimeRange,
        *,
        limit: int,
        newest: bool = False,
        deadline_s: float,
        asks: bool = True,
    ) -> TapeRead:
        """The first (or, `newest`, the last) `limit` trades of `span`, up to the present.

        What is not proven is asked of the provider, if it has a history of trades and `asks` says so,
        until `deadline_s` (the loop's time). What is missing then is told as gaps. Raises StorageFailed
        alone.
        """
        tape = self._tape(feed.instrument)
        asks = asks and feed.provider.has_tick_history
        asked: list[TimeRange] = []
        unsettled: list[TimeRange] = []
        failure: ProviderFailed | NotReady | None = None
        reason = Reason.UNRECOVERABLE
        if feed.provider.has_tick_history and not asks:
            reason = Reason.PENDING
        window_ms = _FIRST_WINDOW_MS
        while True:
            async with tape.lock:
                await tape.begin()
                stored = await self._storage.read_ticks(
                    feed.instrument, span, limit=limit, newest=newest
                )
                await tape.catch_up(stored.number)
                seq = tape.seq
            reach = reach_of_ticks(stored.ticks, span, limit=limit, newest=newest)
            now_ms = feed.provider.now_ms()
            past = reach.clip(TimeRange(MIN_MS, now_ms + 1))
            unknown = subtract(past, merge([*proven(stored.coverage), *asked]))
            unasked = [piece for piece in unknown if piece.start_ms < now_ms - _FRESH_MS]
            if not unasked or not asks:
                break
            piece = unasked[0]
            if newest:
                piece = unasked[-1]._replace(
                    start_ms=max(unasked[-1].start_ms, unasked[-1].end_ms - window_ms)
                )
                window_ms *= 4
            try:
                async with asyncio.timeout_at(deadline_s):
                    # From the newest backwards a part counts once it is whole.
                    end_ms = await self._part(feed, piece, Turn(deadline_s), whole=newest)
            except ProviderRateLimited as error:
                failure, reason = error, Reason.PENDING
                break
            except (ProviderFailed, NotReady) as error:
                failure, reason = error, Reason.FEED_DOWN
                break
            except TimeoutError:
                reason = Reason.PENDING
                break
            told = TimeRange(piece.start_ms, end_ms)
            asked = merge([*asked, told])
            # It may be there later: no gap, but no proof either.
            unsettled.append(told.clip(TimeRange(now_ms - feed.provider.plugin.settle_ms, MAX_MS)))
        gaps = self._gaps(feed, past, stored.coverage, unsettled, reason, now_ms)
        known_ms, newest_ms = reach_known(reach, stored.coverage, gaps)
        return TapeRead(stored.ticks, reach, gaps, known_ms, newest_ms, seq, stored.number, failure)

    async def _keep(
        self, feed: TickFeed, ticks: Sequence[Tick], covered: Sequence[Covered], is_live: bool
    ) -> None:
        tape = self._tape(feed.instrument)
        async with tape.lock:
            await tape.begin()
            added = await self._storage.store_ticks(feed.instrument, ticks, covered, fence=feed.fence)
            new = added.ticks
            self._metrics.ticks_stored.labels(feed.provider.name).inc(len(new))
            for came in self._watchers if new else ():
                came(feed, new, is_live)
            await tape.added(added, ticks if is_live else None)

    async def _part(self, feed: TickFeed, piece: TimeRange, turn: Turn, *, whole: bool) -> int:
        """Fetches a piece, or its first page, and says up to where it has been asked for."""
        if whole:
            await self.fill(feed, piece, turn)
            return piece.end_ms
        async with self._locks.hold(feed.instrument, piece):
            end_ms, _ = await self._page(feed, piece, turn)
        return end_ms

    async def _page(self, feed: TickFeed, span: TimeRange, turn: Turn) -> tuple[int, list[Gap]]:
        """Fetches and stores one page of `span`; says where it ends, and what cannot be had of it."""
        settled_ms = feed.provider.now_ms() - feed.provider.plugin.settle_ms
        page = await feed.provider.fetch_ticks(feed.instrument.symbol, span, turn)
        told = TimeRange(span.start_ms, min(page.end_ms, settled_ms))
        refused = cover(page.refused, Reason.UNRECOVERABLE)
        proofs = cover(subtract(told, page.refused), Reason.DATA)
        await self.keep(feed, page.ticks, [*proofs, *(one.clip(told) for one in refused)])
        return page.end_ms, refused

    def _gaps(
        self,
        feed: TickFeed,
        reach: TimeRange,
        coverage: Sequence[Covered],
        unsettled: Sequence[TimeRange],
        reason: Reason,
        now_ms: int,
    ) -> list[Gap]:
        """What of `reach` is not known, and why.

        `now_ms` is the present up to which was asked: another look at the clock would make a gap of what
        lies between the two. `unsettled` was asked for too early to be known.
        """
        tail = [*unsettled]
        if feed.provider.has_tick_history:
            tail.append(TimeRange(now_ms - _FRESH_MS, now_ms + 1))
        gaps = unproven(reach, coverage, reason, but=merge(tail))
        tape = self._tape(feed.instrument)
        if tape.told is not None:
            return still_told(gaps, tape.followed_ms, now_ms)
        if self._storage.identity and not feed.provider.has_tick_history:
            return still_told(gaps, now_ms - _OTHERS_MS, now_ms)
        return lay([], gaps)

    def _tape(self, instrument: Instrument) -> TapeTeller:
        return self._tapes.setdefault(instrument, TapeTeller(self._storage, instrument))
