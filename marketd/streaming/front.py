"""How far a base series has been told to this node's clients, whoever follows it for them.

`next_ms` is the open time of the first bar that was not told as closed. Bars are told in order and
once, and `next_ms` moves in the same step: who goes on from there repeats and leaves out nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from marketd.domain.bar import Bar
from marketd.domain.timerange import TimeRange
from marketd.plugins.feed import Feed
from marketd.storage import Storage
from marketd.streaming.corrections import Corrections
from marketd.streaming.events import BarEvent, Event, GapEvent, HealthEvent, Progress
from marketd.streaming.needs import History

log = logging.getLogger(__name__)

# As many are told in one turn of the loop: far fewer than an outbox holds.
_CATCH_UP_BARS = 500


class Front:
    """The front of one series. `emit` is called in order and must not block.

    Bars that change after they were told are told again, whoever has changed them, while `run` runs:
    `changed` is to be called with what is stored of the series.
    """

    def __init__(
        self, feed: Feed, *, history: History, storage: Storage, emit: Callable[[Event], None]
    ) -> None:
        self.next_ms = feed.present().settled_end_ms
        self.told_ms = self.next_ms
        """The newest bar that was told as closed, or where it began."""
        self.health = HealthEvent("live", "")
        self._series = feed.series
        self._history = history
        self._emit = emit
        self._corrections = Corrections(storage, feed.series, self.next_ms, emit)
        self.changed = self._corrections.changed
        self.known = self._corrections.known
        self.run = self._corrections.run

    @property
    def number(self) -> int | None:
        """See Corrections."""
        return self._corrections.number

    def form(self, bar: Bar) -> None:
        """Tells a forming bar, if those before it were told."""
        if bar[0] == self.next_ms:
            self._emit(BarEvent(bar, closed=False))

    def close(self, bars: Sequence[Bar], next_ms: int) -> None:
        """Tells the closed bars up to `next_ms`: all there are from where it stands."""
        for bar in bars:
            self._emit(BarEvent(bar, closed=True))
            self.told_ms = bar[0]
        self.next_ms = next_ms
        self._emit(Progress(next_ms))
        self._corrections.published(bars, next_ms)

    async def catch_up(self, feed: Feed, until_ms: int) -> None:
        """Tells what history has of the intervals before `until_ms` that were not told."""
        timeframe = self._series.timeframe
        while self.next_ms < until_ms:
            end_ms = min(until_ms, timeframe.shift(self.next_ms, _CATCH_UP_BARS))
            bars, gaps = await self._history.closed(feed, TimeRange(self.next_ms, end_ms))
            for gap in gaps:
                self._emit(GapEvent(gap))
            self.close(bars, end_ms)

    def tell(self, state: str, message: str) -> None:
        """Says what has become of the feed, once."""
        if state == self.health.state:
            return
        self.health = HealthEvent(state, message)
        level = logging.INFO if state == "live" else logging.WARNING
        log.log(level, "feed %s series=%s reason=%s", state, self._series, message or "it speaks")
        self._emit(self.health)
