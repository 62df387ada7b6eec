"""Trades that come late: the bars that were made without them are made once more."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from marketd.domain.bar import Tick
from marketd.domain.errors import StorageFailed
from marketd.domain.timeframe import Timeframe
from marketd.domain.timerange import TimeRange, merge
from marketd.market.history import History
from marketd.market.time_bars import TimeBars
from marketd.metrics import Metrics
from marketd.plugins.feed import TickFeed

log = logging.getLogger(__name__)

_PAUSE_S = 1.0


class LateTrades:
    """Hears of every trade that is new in the store, and has bars revised while `run` runs.

    A bar that closed longer than `late_ms` ago stays as it is.
    """

    def __init__(self, time_bars: TimeBars, history: History, metrics: Metrics, *, late_ms: int) -> None:
        self._time_bars = time_bars
        self._history = history
        self._metrics = metrics
        self._late_ms = late_ms
        # The intervals to make again, none of which closed earlier than `late_ms` ago.
        self._due: dict[tuple[TickFeed, Timeframe], set[TimeRange]] = {}
        self._is_due = asyncio.Event()
        # Instruments of which this process has stored a trade.
        self._seen: set[TickFeed] = set()

    def came(self, tape: TickFeed, ticks: Sequence[Tick], is_live: bool) -> None:
        """Trades, ascending, are new in the store; see Tapes.watch."""
        now_ms = tape.provider.now_ms()
        since_ms = now_ms - self._late_ms
        bases = tape.provider.made_of_ticks(tape.instrument.symbol)
        for base in bases:
            closed_ms = base.floor(now_ms)
            opens = {base.floor(tick[0]) for tick in ticks if tick[0] < closed_ms}
            spans = {TimeRange(t_ms, base.end(t_ms)) for t_ms in opens}
            late = {span for span in spans if span.end_ms >= since_ms}
            if tape not in self._seen:
                # The process before may have ended between storing a trade and making the bar again.
                late.add(TimeRange(base.floor(since_ms), closed_ms))
            if late:
                self._due.setdefault((tape, base), set()).update(late)
                self._is_due.set()
        self._seen.add(tape)
        if bases and is_live:
            longest = max(bases, key=lambda base: base.nominal_ms)
            too_late = sum(longest.end(tick[0]) < since_ms for tick in ticks)
            self._metrics.ticks_too_late.labels(tape.provider.name).inc(too_late)

    async def run(self) -> None:
        """Makes bars again, until cancelled."""
        while True:
            await self._is_due.wait()
            while self._due:
                (tape, base), spans = next(iter(self._due.items()))
                del self._due[tape, base]
                feed = self._time_bars.feed(tape.provider, tape.instrument, base)
                try:
                    for span in merge(spans):
                        await self._history.remake(feed, span)
                except StorageFailed as error:
                    log.warning("late trades wait tape=%s reason=%s", tape.instrument, error.message)
                    self._due.setdefault((tape, base), set()).update(spans)
                    await asyncio.sleep(_PAUSE_S)
            self._is_due.clear()
