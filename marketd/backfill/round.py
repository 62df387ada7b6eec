"""One round of a backfill: what there is to fetch now, fetched piece by piece, several at once."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import NamedTuple, Protocol, TypeAlias, TypeVar

from marketd.backfill.gaps import chunks
from marketd.backfill.gate import LoadGate
from marketd.backfill.job import Backfill, Brought, Wanted
from marketd.domain.coverage import Gap, Reason
from marketd.domain.errors import NotReady, ProviderFailed, StorageFailed
from marketd.domain.timerange import TimeRange, merge, subtract
from marketd.metrics import Metrics
from marketd.plugins.feed import Feed

T = TypeVar("T")

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 60.0
# What a provider has not mended for so long, nobody asks it for any more by himself.
_HOPE_MS = 7 * 86_400_000


class History(Protocol):
    """What a backfill needs of the past. Each raises ProviderFailed, NotReady or StorageFailed."""

    async def gaps(self, feed: Feed, span: TimeRange) -> list[Gap]:
        """What of `span` is not proven; asks nobody."""

    async def fill(self, feed: Feed, span: TimeRange) -> Brought:
        """Fetches and stores what `span` lacks, as background work."""

    async def fetch_again(self, feed: Feed, span: TimeRange) -> Brought:
        """Fetches and stores all of `span`, also what is there, as background work."""


class Feeds(Protocol):
    """Who knows the series by their names."""

    async def feed_of(self, wanted: Wanted) -> Feed:
        """The base series that `wanted` is of. NotFound, Unsupported or InvalidInput if none is."""


class Means(NamedTuple):
    """What every round works with."""

    history: History
    feeds: Feeds
    gate: LoadGate
    metrics: Metrics


How: TypeAlias = Callable[[Feed, TimeRange], Awaitable[Brought]]


class Round:
    """The work of a backfill from its beginning, or from where it was left, to its end.

    `keep` keeps how far it is; it raises Superseded where that is another's by now.
    """

    def __init__(self, backfill: Backfill, means: Means, keep: Callable[[], Awaitable[None]]) -> None:
        self._backfill = backfill
        self._means = means
        self._keep = keep
        self._under_way: list[TimeRange] = []
        self._last_ms = 0  # where the piece begins that was taken last

    async def run(self) -> None:
        """Returns when all is there that can be had; raises MarketdError if it cannot go on."""
        backfill = self._backfill
        await self._insist(self._keep)
        feed = await self._insist(lambda: self._means.feeds.feed_of(backfill.wanted))
        with feed.provider.lease():
            pieces = await self._pieces(feed)
            pace = _Pace(backfill)
            async with asyncio.TaskGroup() as group:
                # One call at a time is left to whoever waits for an answer.
                for _ in range(max(1, feed.provider.plugin.concurrency - 1)):
                    group.create_task(self._take(feed, pieces, pace))

    async def _pieces(self, feed: Feed) -> Iterator[tuple[TimeRange, How]]:
        """What is to be fetched and how, the newest first; cut as it is taken."""
        backfill, history = self._backfill, self._means.history
        present, timeframe = feed.present(), feed.series.timeframe
        if backfill.kept is not None:
            backfill.wanted = replace(backfill.wanted, span=backfill.kept.span(present.now_ms))
        span = backfill.wanted.span
        settled = TimeRange(feed.life.start_ms, min(feed.life.end_ms, present.settled_end_ms))
        span = TimeRange(timeframe.floor(span.start_ms), timeframe.ceil(span.end_ms)).clip(settled)
        if span.is_empty:
            backfill.total_ms = backfill.done_ms = 0
            return iter(())
        again = merge([self._again(span)])
        gaps = await self._insist(lambda: history.gaps(feed, span))
        hopeless_ms = present.now_ms - _HOPE_MS if backfill.is_kept else 0
        wanted = merge(gap.range for gap in gaps if not _is_hopeless(gap, hopeless_ms))
        missing = [rest for piece in wanted for rest in subtract(piece, again)]
        backfill.total_ms = span.end_ms - span.start_ms
        left_ms = sum(piece.end_ms - piece.start_ms for piece in (*missing, *again))
        backfill.done_ms = backfill.total_ms - left_ms
        work: list[tuple[TimeRange, How]] = [(piece, history.fill) for piece in missing]
        work += [(piece, history.fetch_again) for piece in again]
        work.sort(key=lambda one: one[0], reverse=True)
        most = feed.provider.plugin.page_limit
        return ((piece, how) for whole, how in work for piece in chunks([whole], timeframe, most))

    def _again(self, span: TimeRange) -> TimeRange:
        """What of `span` is fetched though it is stored."""
        backfill, kept = self._backfill, self._backfill.kept
        if kept is not None:
            return span.clip(TimeRange(span.end_ms - kept.repair, span.end_ms))
        if not backfill.wanted.repair:
            return TimeRange(span.end_ms, span.end_ms)
        # What has settled since it began, or is repaired, is looked at as ever.
        return span.clip(TimeRange(span.start_ms, backfill.repaired_ms or span.end_ms))

    async def _take(self, feed: Feed, pieces: Iterator[tuple[TimeRange, How]], pace: _Pace) -> None:
        """Fetches piece after piece; several do so at once, out of the same `pieces`."""
        backfill = self._backfill
        for piece, how in pieces:
            self._last_ms = piece.start_ms
            self._under_way.append(piece)
            brought = await self._insist(partial(self._fetch, how, feed, piece))
            self._under_way.remove(piece)
            backfill.message = ""
            self._means.metrics.backfill_chunks.labels(feed.provider.name).inc()
            pace.went(piece, brought)
            if backfill.wanted.repair:
                # Coverage cannot tell what was fetched again.
                ends_ms = (one.end_ms for one in self._under_way)
                backfill.repaired_ms = max(ends_ms, default=self._last_ms)
                await self._insist(self._keep)

    async def _fetch(self, how: How, feed: Feed, piece: TimeRange) -> Brought:
        """One piece, once nobody would notice."""
        await self._means.gate.passed()
        return await how(feed, piece)

    async def _insist(self, work: Callable[[], Awaitable[T]]) -> T:
        """What `work` gives, however long it fails in a way that passes."""
        longest_s = _FIRST_PAUSE_S
        while True:
            try:
                return await work()
            except (ProviderFailed, NotReady, StorageFailed) as error:
                if isinstance(error, ProviderFailed) and not error.transient:
                    raise
                self._backfill.message = error.message
            await asyncio.sleep(random.uniform(0, longest_s))  # noqa: S311 - jitter
            longest_s = min(2 * longest_s, _LONGEST_PAUSE_S)


class _Pace:
    """How fast a backfill goes, since it began this time."""

    def __init__(self, backfill: Backfill) -> None:
        self._backfill = backfill
        self._loop = asyncio.get_running_loop()
        self._began_s = self._loop.time()
        self._had_ms = backfill.done_ms
        self._had_bars = backfill.brought.bars

    def went(self, piece: TimeRange, brought: Brought) -> None:
        """One more piece is there."""
        one = self._backfill
        one.done_ms += piece.end_ms - piece.start_ms
        one.brought = one.brought.plus(brought)
        took_s = max(self._loop.time() - self._began_s, 1e-6)
        one.bars_per_s = (one.brought.bars - self._had_bars) / took_s
        one.eta_s = took_s * (one.total_ms - one.done_ms) / (one.done_ms - self._had_ms)


def _is_hopeless(gap: Gap, before_ms: int) -> bool:
    """Whether the provider has had until `before_ms` to mend it, and has not."""
    return gap.reason is Reason.UNRECOVERABLE and gap.end_ms <= before_ms
