"""Tells a quiet market from a mute stream, which says nothing while the market goes on."""

from __future__ import annotations

from collections.abc import Callable

from marketd.clock import Clock
from marketd.domain.bar import Bar, same_bar
from marketd.domain.errors import FeedStalled, MarketdError
from marketd.plugins.feed import Feed
from marketd.streaming.needs import History

# A quiet market is asked about less and less often, up to this many times the first interval.
_MOST_PATIENCE = 8
# What history has just learnt may be on its way in the stream.
_GRACE_MS = 1_000


async def watch_silence(
    feed: Feed, history: History, clock: Clock, *, heard_ms: Callable[[], int], stall_ms: int
) -> None:
    """Raises FeedStalled once history has gone on while the stream said nothing for `stall_ms`.

    `heard_ms` tells when the stream spoke last, by `clock`. Two looks at history are compared, since it
    may round otherwise than the stream does.
    """
    while True:
        heard, wait_ms = heard_ms(), stall_ms
        looks: list[Bar | None] = []
        while heard == heard_ms():
            if len(looks) == 2 and not _same(*looks):
                raise FeedStalled(f"The stream of {feed.provider.name} was mute; it is begun anew.")
            await clock.sleep_until(heard + wait_ms)
            wait_ms += min(wait_ms, _MOST_PATIENCE * stall_ms)
            try:
                looks = [*looks[-1:], await history.forming(feed)]
            except MarketdError:
                # Whether the stream is mute cannot be told while history is away.
                continue
            await clock.sleep_until(clock.now_ms() + _GRACE_MS)


def _same(one: Bar | None, other: Bar | None) -> bool:
    return one is other if one is None or other is None else same_bar(one, other)
