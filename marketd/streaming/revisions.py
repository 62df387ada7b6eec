"""Bars that have changed, as they are now: a derived one, and all that a client has missed."""

from __future__ import annotations

from marketd.domain.bar import Bar
from marketd.domain.errors import MarketdError
from marketd.domain.instrument import Series
from marketd.plugins.feed import Feed
from marketd.storage import Storage
from marketd.storage.records import Revision
from marketd.streaming.events import BarEvent
from marketd.streaming.messages import Message, event_message
from marketd.streaming.needs import Past
from marketd.streaming.ring import Cursor

# Of more changes than these a client is not told one by one.
_MOST = 1_000


async def whole(past: Past[Feed, Series], feed: Feed, series: Series, bucket_ms: int) -> Bar | None:
    """The bar of `series` that opens at that time of the past; None while a part of it is missing."""
    end_ms = series.timeframe.end(bucket_ms)
    found = await past.past(feed, series, since=bucket_ms, before=end_ms, limit=1)
    return found.bars[0] if found.bars and not found.gaps else None


async def missed(
    storage: Storage, past: Past[Feed, Series], feed: Feed, series: Series, cursor: Cursor
) -> list[Message] | None:
    """What has become since `cursor` of the bars before it; None if that cannot be told.

    The messages repeat the cursor: who has only a part of them has none.
    """
    if cursor.number is None:
        return None
    try:
        found = await storage.revised(feed.series, after=cursor.number, limit=_MOST + 1)
        if found.number < cursor.number or len(found.bars) > _MOST:
            # The numbers are of a store that is no more, or there are too many.
            return None
        bars = [one for one in found.bars if one.bar[0] < cursor.next_ms]
        if series != feed.series:
            bars = await _derived(past, feed, series, bars)
    except MarketdError:
        return None
    token = cursor.token()
    return [
        event_message(series, BarEvent(bar, closed=True, rev=max(rev, 1)), token) for bar, rev in bars
    ]


async def _derived(
    past: Past[Feed, Series], feed: Feed, series: Series, changed: list[Revision]
) -> list[Revision]:
    """The buckets that hold these base bars."""
    revs: dict[int, int] = {}
    for bar, rev in changed:
        bucket_ms = series.timeframe.floor(bar[0])
        revs[bucket_ms] = max(rev, revs.get(bucket_ms, 0))
    buckets = [(await whole(past, feed, series, bucket_ms), rev) for bucket_ms, rev in revs.items()]
    return [Revision(bar, rev) for bar, rev in buckets if bar is not None]
