"""The history of one base series: from the store where that proves it, else from the provider.

Bars whose interval ended too recently for their absence to mean anything, and the forming bar, are
the tail: it comes from the provider each time, and its absence is never taken for proof.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from sys import maxsize
from typing import NamedTuple

from marketd.backfill.job import Brought
from marketd.cache import BarCache
from marketd.domain.bar import Bar, open_time, select
from marketd.domain.coverage import Covered, Gap, Reason, cover, gaps_in, lay, proven
from marketd.domain.errors import NotReady, ProviderFailed, ProviderRateLimited
from marketd.domain.timeframe import Timeframe
from marketd.domain.timerange import MIN_MS, TimeRange, merge, subtract
from marketd.market.doubts import Doubts
from marketd.market.filler import Filler, Filling
from marketd.market.stored import STORAGE, StoredReads
from marketd.market.time_bars import TimeBarFeed
from marketd.metrics import Metrics
from marketd.plugins.feed import Feed
from marketd.plugins.guard import BACKGROUND, Turn
from marketd.storage import Storage
from marketd.storage.records import reach_of


class HistoryRead(NamedTuple):
    """Base bars, ascending: all there are in `reach`, but for `gaps`.

    `failure` is what the provider said where a gap is its fault.
    """

    bars: list[Bar]
    reach: TimeRange
    gaps: list[Gap]
    failure: ProviderFailed | NotReady | None


_PROVIDER = "provider"
_AGGREGATES = "aggregates"


class History:
    """Reads base series by proof, from the nearest of `caches` that has them."""

    def __init__(self, storage: Storage, metrics: Metrics, caches: Sequence[BarCache] = ()) -> None:
        self._storage = storage
        self._stored = StoredReads(storage, caches)
        sources = (_PROVIDER, STORAGE, _AGGREGATES, *(cache.name for cache in caches))
        self._served = {source: metrics.bars_served.labels(source) for source in sources}
        self._timed = {source: metrics.read_seconds.labels(source) for source in sources}
        self._filler = Filler(storage, metrics)
        self._doubts = Doubts()

    async def read(
        self, feed: Feed, span: TimeRange, *, limit: int, newest: bool, deadline_s: float
    ) -> HistoryRead:
        """The first (or, `newest`, the last) `limit` bars of `span`, the forming one included.

        What is not proven is asked of the provider until `deadline_s` (the loop's time); what is
        missing then, or because the provider failed, is told as gaps. So is what cannot be right, which
        is asked for again by the first read after a start and then once an hour. Raises StorageFailed
        alone.
        """
        begun_s = asyncio.get_running_loop().time()
        timeframe = feed.series.timeframe
        span = span.clip(feed.life)
        gaps: list[Gap] | None = None
        failure: ProviderFailed | NotReady | None = None
        wrong: ProviderFailed | None = None
        fetched = 0
        while True:
            stored = await self._stored.read(feed.series, span, limit=limit, newest=newest)
            reach = reach_of(stored.bars, timeframe, span, limit=limit, newest=newest)
            # Once a round: what settles meanwhile belongs to the tail of this answer.
            present = feed.present()
            settled_ms = present.settled_end_ms
            settled = reach.clip(TimeRange(MIN_MS, settled_ms))
            if not subtract(settled, proven(stored.coverage)):
                gaps = gaps or []
                break
            if gaps is None:
                doubted = gaps_in(settled, stored.coverage)
                gaps = self._doubts.not_due(feed.series, doubted, present.now_ms)
            missing = _unknown(settled, stored.coverage, gaps)
            if not missing:
                break
            if missing[-1].end_ms == settled.end_ms:
                # The page that ends the settled part brings the tail along.
                missing[-1] = TimeRange(missing[-1].start_ms, reach.end_ms)
            reason = Reason.FEED_DOWN
            try:
                async with asyncio.timeout_at(deadline_s):
                    filling = await self._filler.fill(
                        feed, missing, enough=limit, newest=newest, turn=Turn(deadline_s)
                    )
            except ProviderRateLimited as error:
                failure, reason = error, Reason.PENDING
            except (ProviderFailed, NotReady) as error:
                failure = error
            except TimeoutError:
                reason = Reason.PENDING
            else:
                fetched += filling.bars
                refused = cover(filling.refused, Reason.UNRECOVERABLE)
                self._doubts.asked(feed.series, refused, present.now_ms)
                gaps += [*cover(filling.untold, Reason.PENDING), *refused]
                if filling.is_garbled and not feed.is_of_live_trades:
                    wrong = ProviderFailed(
                        f"{feed.provider.name} sent something for this that cannot be right.",
                        transient=False,
                    )
                continue
            coverage = (await self._storage.read(feed.series, settled, limit=0)).coverage
            gaps += cover(_unknown(settled, coverage, gaps), reason)
        bars = stored.bars
        proven_ms = _proven_to(stored.coverage, settled_ms)
        tail = reach.clip(TimeRange(proven_ms, feed.provider.now_ms() + 1))
        if not tail.is_empty:
            try:
                if failure is not None:
                    raise failure
                async with asyncio.timeout_at(deadline_s):
                    newer = await self._filler.tail(feed, tail.start_ms, turn=Turn(deadline_s))
            except ProviderRateLimited as error:
                failure = error
                gaps.append(Gap(*tail, Reason.PENDING))
            except (ProviderFailed, NotReady) as error:
                failure = error
                gaps.append(Gap(*tail, Reason.FEED_DOWN))
            except TimeoutError:
                gaps.append(Gap(*tail, Reason.PENDING))
            else:
                since = None if newest else span.start_ms
                bars = list(select(_joined(bars, newer, tail.start_ms, span), since=since, limit=limit))
                reach = reach_of(bars, timeframe, span, limit=limit, newest=newest)
                fetched += len(newer)
        if feed.is_of_live_trades:
            # Closed, but its trades are not all told yet.
            waited_for = TimeRange(present.settled_end_ms, present.closed_end_ms).clip(reach)
            gaps += cover([waited_for], Reason.PENDING)
        self._count(stored.sources, fetched, len(bars), since_s=begun_s)
        told = [gap for gap in lay([], gaps) if not gap.range.clip(reach).is_empty]
        return HistoryRead(bars, reach, told, failure or wrong)

    async def proven(self, feed: Feed, span: TimeRange) -> list[TimeRange]:
        """Where the store has every base bar that there is."""
        stored = await self._storage.read(feed.series, span, limit=0)
        return merge([*proven(stored.coverage), *subtract(span, [feed.life])])

    async def aggregate(
        self, feed: Feed, timeframe: Timeframe, span: TimeRange, *, limit: int, newest: bool
    ) -> list[Bar]:
        """The first or last `limit` bars of `timeframe` in `span`, of which all base bars are proven."""
        begun_s = asyncio.get_running_loop().time()
        bars = await self._storage.aggregate(feed.series, timeframe, span, limit=limit, newest=newest)
        self._tell({_AGGREGATES: len(bars)}, since_s=begun_s)
        return bars

    async def fill(self, feed: Feed, span: TimeRange) -> Brought:
        """Fetches and stores what `span` lacks, as background work; see backfill.manager.History."""
        brought = Brought()
        refused: list[TimeRange] = []
        while True:
            coverage = (await self._storage.read(feed.series, span, limit=0)).coverage
            missing = subtract(span, merge([*proven(coverage), *refused]))
            if not missing:
                return brought
            filling = await self._filler.fill(
                feed, missing, enough=maxsize, newest=False, turn=BACKGROUND
            )
            refused += [*filling.refused, *filling.untold]
            self._doubts.asked(
                feed.series, cover(filling.refused, Reason.UNRECOVERABLE), feed.provider.now_ms()
            )
            brought = brought.plus(_brought(filling))

    async def fetch_again(self, feed: Feed, span: TimeRange, *, turn: Turn = BACKGROUND) -> Brought:
        """Fetches and stores all of `span`; as background work, see backfill.manager.History."""
        return _brought(await self._filler.again(feed, span, turn=turn))

    async def remake(self, feed: TimeBarFeed, span: TimeRange) -> None:
        """See Filler.remake."""
        await self._filler.remake(feed, span)

    async def gaps(self, feed: Feed, span: TimeRange) -> list[Gap]:
        """What of `span` is not proven, and why. Asks nobody, and reads no bar."""
        span = span.clip(feed.life).clip(TimeRange(MIN_MS, feed.present().settled_end_ms))
        if span.is_empty:
            return []
        stored = await self._storage.read(feed.series, span, limit=0)
        return gaps_in(span, stored.coverage)

    def _count(self, sources: Mapping[str, int], fetched: int, served: int, *, since_s: float) -> None:
        """Tells where the `served` bars came from; what was `fetched` has gone through the store."""
        near = {source: count for source, count in sources.items() if source != STORAGE}
        far = max(0, served - sum(near.values()))
        self._tell(
            {_PROVIDER: min(fetched, far), STORAGE: max(0, far - fetched), **near}, since_s=since_s
        )

    def _tell(self, sources: Mapping[str, int], *, since_s: float) -> None:
        """Counts a read by its `sources`, the farthest first."""
        for source, count in sources.items():
            self._served[source].inc(count)
        farthest = next((source for source, count in sources.items() if count), STORAGE)
        took_s = asyncio.get_running_loop().time() - since_s
        self._timed[farthest].observe(took_s)


def _brought(filling: Filling) -> Brought:
    return Brought(filling.bars, filling.inserted, filling.revised, len(filling.refused))


def _joined(bars: list[Bar], newer: list[Bar], from_ms: int, span: TimeRange) -> list[Bar]:
    """`bars`, and from `from_ms` on what `newer` says, which wins, as far as `span` goes."""
    recent = {bar[0]: bar for bar in (*select(bars, since=from_ms), *newer) if bar[0] < span.end_ms}
    return [*select(bars, before=from_ms), *sorted(recent.values(), key=open_time)]


def _unknown(span: TimeRange, coverage: list[Covered], gaps: list[Gap]) -> list[TimeRange]:
    """What of `span` is neither proven nor already told as a gap."""
    return subtract(span, merge([*proven(coverage), *(gap.range for gap in gaps)]))


def _proven_to(coverage: list[Covered], settled_ms: int) -> int:
    """The settled end, or what a live stream has proven beyond it."""
    for piece in proven(coverage):
        if piece.start_ms <= settled_ms < piece.end_ms:
            return piece.end_ms
    return settled_ms
