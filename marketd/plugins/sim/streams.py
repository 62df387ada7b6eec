"""History as it happens: what a clock has not reached yet, told when it does.

A stream holds no state but the time up to which it has told everything. So one that was late, because
its reader was slow or the clock leapt, goes on where it was and leaves out nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from marketd.clock import Clock
from marketd.domain.bar import Bar, Tick
from marketd.domain.timeframe import Timeframe
from marketd.plugins.base import BarUpdate
from marketd.plugins.sim.history import History

_PAGE = 1000
_FORMING_PACE_MS = 250


async def tick_batches(
    history: History, clock: Clock, *, since_ms: int, pace_ms: int
) -> AsyncGenerator[list[Tick], None]:
    """Every trade from `since_ms` on, in batches at least `pace_ms` of the clock apart."""
    told_ms = since_ms
    earliest_ms = since_ms
    while (next_ms := await asyncio.to_thread(history.next_trade_ms, told_ms)) is not None:
        await clock.sleep_until(max(next_ms, earliest_ms))
        now_ms = clock.now_ms()
        earliest_ms = now_ms + pace_ms
        while told_ms <= now_ms:
            batch = await asyncio.to_thread(history.ticks, told_ms, now_ms + 1, _PAGE)
            told_ms = batch[-1][0] + 1 if len(batch) == _PAGE else now_ms + 1
            if batch:
                yield batch


async def bar_updates(
    history: History, timeframe: Timeframe, clock: Clock, *, since_ms: int, pace_ms: int
) -> AsyncGenerator[BarUpdate, None]:
    """The bars from the interval of `since_ms` on: each while it forms, then closed.

    A forming bar is told after trades, as it is at present, four times a second at the most; a closed
    one once, when its interval has ended, and none is left out. Where the clock runs fast, either waits
    until `pace_ms` after its like, and several bars may then close together.
    """
    start_ms = timeframe.floor(since_ms)
    now_ms = since_ms
    told: Bar | None = None
    closable_ms = since_ms
    while True:
        # A system's clock may be put back a little: what has closed stays closed.
        now_ms = max(now_ms, clock.now_ms())
        current_ms = timeframe.floor(now_ms)
        if start_ms < current_ms:
            closable_ms = now_ms + pace_ms
        while start_ms < current_ms:
            page = await asyncio.to_thread(history.bars, timeframe, start_ms, current_ms, _PAGE)
            start_ms = timeframe.end(page[-1][0]) if len(page) == _PAGE else current_ms
            for bar in page:
                yield BarUpdate(bar, True)
        forming = await asyncio.to_thread(history.forming, timeframe, now_ms)
        if forming is not None and forming != told:
            yield BarUpdate(forming, False)
            told = forming
        next_ms = await asyncio.to_thread(history.next_trade_ms, now_ms + 1)
        unclosed_ms = now_ms if forming is not None else next_ms
        if unclosed_ms is None:
            return
        wake_ms = max(timeframe.end(unclosed_ms), closable_ms)
        if next_ms is not None:
            wake_ms = min(wake_ms, max(next_ms, now_ms + max(_FORMING_PACE_MS, pace_ms)))
        await clock.sleep_until(wake_ms)
