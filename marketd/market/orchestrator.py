"""Any timeframe of any series, first or last bars of any range, out of proven base bars."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import NamedTuple

from marketd.domain.bar import Bar, select
from marketd.domain.coverage import Gap, Reason
from marketd.domain.errors import NotReady, ProviderFailed, ProviderTimeout, Unsupported
from marketd.domain.instrument import Series
from marketd.domain.resample import resample
from marketd.domain.timeframe import Timeframe
from marketd.domain.timerange import TimeRange
from marketd.market.history import History, HistoryRead
from marketd.plugins.feed import Feed
from marketd.plugins.guard import BACKGROUND, Turn
from marketd.streaming.needs import PastBars

# Base bars read at once, and the most of them that one bar may be made of (a year of minutes fits).
_CHUNK = 50_000
_LARGEST_BUCKET = 600_000
# Above this many bars resampling leaves the event loop.
_INLINE = 2_000


class Bars(NamedTuple):
    """The answer to a question about bars.

    `bars` ascend and are all there are in `reach` but for `gaps`; `more` says that bars may lie
    beyond the reach, on the side where the limit cut.
    """

    bars: Sequence[Bar]
    reach: TimeRange
    gaps: list[Gap]
    more: bool

    @property
    def complete(self) -> bool:
        """True if nothing that was asked for is missing."""
        return not self.gaps


class DataOrchestrator:
    """Answers for every timeframe from the history of the base series that the feed names."""

    def __init__(self, history: History, *, request_timeout_ms: int, depth_ms: int) -> None:
        self._history = history
        self._request_timeout_s = request_timeout_ms / 1000
        self._depth_ms = depth_ms

    async def bars(
        self, feed: Feed, timeframe: Timeframe, *, since: int | None, before: int | None, limit: int
    ) -> Bars:
        """With `since` the first `limit` bars that open in `[since, before)`, else the last before.

        `before` is the end of the current interval unless given. Bars inside a bucket that a gap
        touches are left out, never served in part. Where the store proves to have every base bar, they
        come from its aggregates. Raises the provider's failure if it left nothing.
        """
        span = self._span(feed, timeframe, since, before)
        newest = since is None
        deadline_s = asyncio.get_running_loop().time() + self._request_timeout_s
        bucket = _bars_in(timeframe, feed.series.timeframe)
        bars: Sequence[Bar] = []
        gaps: list[Gap] = []
        failure: ProviderFailed | NotReady | None = None
        has_read = False
        found: Sequence[Bar]
        left = span
        while not left.is_empty and len(bars) < limit:
            missing = limit - len(bars)
            proven = await self._proven(feed, timeframe, left)
            part = _next_part(left, proven, newest=newest)
            if part in proven:
                done = part
                try:
                    async with asyncio.timeout_at(deadline_s):
                        found = await self._history.aggregate(
                            feed, timeframe, part, limit=missing, newest=newest
                        )
                except TimeoutError:
                    gaps.append(Gap(*part, Reason.PENDING))
                    break
            elif _was_asked_in_vain(feed, gaps):
                # Whoever failed just now is not asked for more; what is proven beside it was served.
                break
            else:
                enough = min(missing * bucket, max(_CHUNK, bucket))
                read = await self._history.read(
                    feed, part, limit=enough, newest=newest, deadline_s=deadline_s
                )
                done = _whole_buckets(read, part, timeframe, newest=newest, cut=len(read.bars) >= enough)
                found = await self._resampled(read, done, timeframe, feed.series.timeframe)
                gaps += read.gaps
                failure = failure or read.failure
                has_read |= bool(read.bars)
            if bars:
                found = [*found, *bars] if newest else [*bars, *found]
            bars = found
            left = (
                TimeRange(left.start_ms, done.start_ms)
                if newest
                else TimeRange(done.end_ms, left.end_ms)
            )
        has_nothing = gaps and not bars and not has_read
        if has_nothing and (failure is not None or _was_asked_in_vain(feed, gaps)):
            raise failure or _failure(feed, gaps)
        bars = select(bars, since=None if newest else span.start_ms, limit=limit)
        full = len(bars) == limit
        if newest:
            reach = TimeRange(bars[0][0] if full else left.end_ms, span.end_ms)
            more = reach.start_ms > span.start_ms
        else:
            reach = TimeRange(span.start_ms, timeframe.end(bars[-1][0]) if full else left.start_ms)
            more = reach.end_ms < min(span.end_ms, feed.provider.now_ms())
        told = [Gap(*gap.range.clip(reach), gap.reason) for gap in sorted(gaps)]
        return Bars(bars, reach, [gap for gap in told if not gap.range.is_empty], more)

    async def gaps(
        self, feed: Feed, timeframe: Timeframe, *, since: int | None, before: int | None
    ) -> list[Gap]:
        """What of the range is not proven, and why; asks nobody."""
        return await self._history.gaps(feed, self._span(feed, timeframe, since, before))

    async def past(self, feed: Feed, series: Series, *, since: int, before: int, limit: int) -> PastBars:
        """The first `limit` closed bars of `[since, before)`, for a stream that begins at `before`."""
        found = await self.bars(feed, series.timeframe, since=since, before=before, limit=limit)
        end_ms = found.reach.end_ms if found.more else before
        return PastBars(found.bars, end_ms, found.gaps)

    async def closed(self, feed: Feed, span: TimeRange) -> tuple[list[Bar], list[Gap]]:
        """Every closed base bar of `span`; raises while a part of it might still be had."""
        deadline_s = asyncio.get_running_loop().time() + self._request_timeout_s
        most = (span.end_ms - span.start_ms) // feed.series.timeframe.nominal_ms + 2
        read = await self._history.read(feed, span, limit=most, newest=False, deadline_s=deadline_s)
        if _may_be_had(read.gaps):
            raise read.failure or ProviderTimeout(f"{feed.provider.name} did not answer in time.")
        return read.bars, read.gaps

    async def forming(self, feed: Feed) -> Bar | None:
        """The forming bar of a base series."""
        now_ms = feed.provider.now_ms()
        interval = TimeRange(feed.series.timeframe.floor(now_ms), feed.series.timeframe.end(now_ms))
        bars, _ = await self.closed(feed, interval)
        return bars[0] if bars else None

    async def refetch(self, feed: Feed, span: TimeRange, *, background: bool) -> None:
        """Asks the provider for all of `span`, also for what is stored, and stores what has changed."""
        deadline_s = asyncio.get_running_loop().time() + self._request_timeout_s
        turn = BACKGROUND if background else Turn(deadline_s)
        await self._history.fetch_again(feed, span, turn=turn)

    def _span(
        self, feed: Feed, timeframe: Timeframe, since: int | None, before: int | None
    ) -> TimeRange:
        """The whole buckets of `timeframe` that open in `[since, before)`, within the feed's life.

        Without `since`, from the bucket on that lies the depth ago: the newest is always among them.
        """
        now_ms = feed.provider.now_ms()
        end_ms = timeframe.ceil(min(now_ms + 1 if before is None else before, feed.life.end_ms))
        if since is None:
            start_ms = timeframe.floor(max(0, min(end_ms, now_ms) - self._depth_ms))
        else:
            start_ms = timeframe.ceil(since)
        return TimeRange(max(start_ms, timeframe.floor(feed.life.start_ms)), end_ms)

    async def _proven(self, feed: Feed, timeframe: Timeframe, span: TimeRange) -> list[TimeRange]:
        """The whole buckets of `span` of which the store has every base bar; none of the base itself."""
        if timeframe == feed.series.timeframe:
            return []
        pieces = [piece.clip(span) for piece in await self._history.proven(feed, span)]
        whole = (
            TimeRange(timeframe.ceil(piece.start_ms), timeframe.floor(piece.end_ms)) for piece in pieces
        )
        return [piece for piece in whole if not piece.is_empty]

    async def _resampled(
        self, read: HistoryRead, done: TimeRange, timeframe: Timeframe, base: Timeframe
    ) -> Sequence[Bar]:
        bars = select(read.bars, since=done.start_ms, before=done.end_ms)
        if timeframe == base:
            return bars
        if len(bars) > _INLINE:
            whole = await asyncio.to_thread(resample, bars, timeframe)
        else:
            whole = resample(bars, timeframe)
        return [bar for bar in whole if not _touched(bar, timeframe, read.gaps)]


def _failure(feed: Feed, gaps: Sequence[Gap]) -> ProviderFailed:
    """Why there is nothing but gaps, where the provider has not said it itself."""
    name = feed.provider.name
    if any(gap.reason is Reason.PENDING for gap in gaps):
        return ProviderTimeout(f"{name} did not answer within the time that a request has.")
    return ProviderFailed(f"{name} failed when it was asked for this.", transient=False)


def _bars_in(timeframe: Timeframe, base: Timeframe) -> int:
    """The most bars of `base` that one bar of `timeframe` can hold; Unsupported if that is absurd."""
    count = base.most_in(timeframe)
    if count > _LARGEST_BUCKET:
        raise Unsupported(f"{timeframe} is too long to be made of {base} bars.")
    return count


def _next_part(left: TimeRange, proven: Sequence[TimeRange], *, newest: bool) -> TimeRange:
    """What to read next: what is `proven` at the wanted end of `left`, or all up to where it begins."""
    if not proven:
        return left
    if newest:
        piece = proven[-1]
        return piece if piece.end_ms == left.end_ms else TimeRange(piece.end_ms, left.end_ms)
    piece = proven[0]
    return piece if piece.start_ms == left.start_ms else TimeRange(left.start_ms, piece.start_ms)


def _whole_buckets(
    read: HistoryRead, left: TimeRange, timeframe: Timeframe, *, newest: bool, cut: bool
) -> TimeRange:
    """The part of `left` whose buckets `read` holds whole; all of it unless the limit cut the read."""
    if not cut:
        return left
    if newest:
        return TimeRange(timeframe.ceil(read.reach.start_ms), left.end_ms)
    return TimeRange(left.start_ms, timeframe.floor(read.reach.end_ms))


def _may_be_had(gaps: Sequence[Gap]) -> bool:
    """True if asking again may fill some of the gaps."""
    return any(gap.reason is not Reason.UNRECOVERABLE for gap in gaps)


def _was_asked_in_vain(feed: Feed, gaps: Sequence[Gap]) -> bool:
    """True if the provider has just not given what it might have. A stream to come cannot be asked."""
    return _may_be_had(gaps) and not feed.is_of_live_trades


def _touched(bar: Bar, timeframe: Timeframe, gaps: Sequence[Gap]) -> bool:
    bucket = TimeRange(bar[0], timeframe.end(bar[0]))
    return any(not gap.range.clip(bucket).is_empty for gap in gaps)
