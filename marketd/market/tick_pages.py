"""Trades as a client asks for them, page by page, also where a page ends within a millisecond."""

from __future__ import annotations

import asyncio
from typing import NamedTuple

from marketd.domain.bar import Tick
from marketd.domain.coverage import Gap, Reason
from marketd.domain.errors import InvalidInput, ProviderTimeout
from marketd.domain.timerange import MAX_MS, MIN_MS, TimeRange
from marketd.domain.token import pack, unpack
from marketd.market.tapes import TapeRead, Tapes
from marketd.plugins.feed import TickFeed

# A longer number is no count of trades in a millisecond.
_LONGEST = 15


class TicksPage(NamedTuple):
    """Trades, ascending, gaps, and the next page."""

    ticks: list[Tick]
    gaps: list[Gap]
    next_page_token: str | None


class _Edge(NamedTuple):
    """Where a page ended: beyond the first (or, backwards, the last) `ticks` trades of `t_ms`."""

    t_ms: int
    ticks: int


class TickPages:
    """Reads pages of trades. Without `since` they are looked for as far back as they are kept."""

    def __init__(self, tapes: Tapes, *, request_timeout_ms: int, keep_ms: int) -> None:
        self._tapes = tapes
        self._request_timeout_s = request_timeout_ms / 1000
        self._keep_ms = keep_ms

    async def page(
        self,
        feed: TickFeed,
        *,
        since: int | None,
        before: int | None,
        limit: int,
        page_token: str | None,
    ) -> TicksPage:
        """The first `limit` trades from `since` on, else the last ones before `before`.

        Raises the provider's failure if it left nothing to answer with.
        """
        newest = since is None
        kind = "ticks-before" if newest else "ticks-since"
        edge = _edge(page_token, kind) if page_token else None
        end_ms = MAX_MS if before is None else before
        if since is None:
            end_ms = end_ms if edge is None else edge.t_ms + 1
            since = max(MIN_MS, min(end_ms, feed.provider.now_ms()) - self._keep_ms)
        elif edge is not None:
            since = edge.t_ms
        had = 0 if edge is None else edge.ticks
        span = TimeRange(since, end_ms)
        # One more than is wanted says whether there is more.
        read = await self._tapes.read(
            feed,
            span,
            limit=limit + had + 1,
            newest=newest,
            deadline_s=asyncio.get_running_loop().time() + self._request_timeout_s,
        )
        if read.gaps and not read.ticks:
            raise_for(feed, read)
        ticks = read.ticks[: len(read.ticks) - had] if newest else read.ticks[had:]
        if len(ticks) <= limit:
            return TicksPage(ticks, read.gaps, None)
        ticks = ticks[1:] if newest else ticks[:-1]
        return TicksPage(ticks, read.gaps, _token(kind, ticks, edge, newest=newest))


def raise_for(feed: TickFeed, read: TapeRead) -> None:
    """Raises what the provider said, if that is why there is nothing."""
    if read.failure is not None:
        raise read.failure
    if any(gap.reason is Reason.PENDING for gap in read.gaps) and feed.provider.has_tick_history:
        raise ProviderTimeout(f"{feed.provider.name} did not answer within the time of a request.")


def _token(kind: str, ticks: list[Tick], edge: _Edge | None, *, newest: bool) -> str:
    t_ms = ticks[0][0] if newest else ticks[-1][0]
    count = sum(tick[0] == t_ms for tick in ticks)
    if edge is not None and edge.t_ms == t_ms:
        count += edge.ticks
    return pack(kind, f"{t_ms}.{count}")


def _edge(token: str, kind: str) -> _Edge:
    numbers = unpack(token, kind, field="page_token").split(".")
    are_numbers = all(one.isascii() and one.isdigit() and len(one) <= _LONGEST for one in numbers)
    if len(numbers) == 2 and are_numbers and int(numbers[0]) < MAX_MS:
        return _Edge(*map(int, numbers))
    raise InvalidInput("page_token is not one that was given for this question.", field="page_token")
