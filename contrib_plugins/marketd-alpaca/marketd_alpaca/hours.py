"""Hours made of the minutes that Alpaca streams: it streams no others."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Sequence

from marketd.domain.bar import Bar, open_time
from marketd.domain.resample import resample
from marketd.domain.timeframe import Timeframe
from marketd.plugins import BarUpdate

MINUTE, HOUR = Timeframe.parse("1m"), Timeframe.parse("1h")


async def in_hours(minutes: AsyncIterator[Bar], begun: Sequence[Bar]) -> AsyncGenerator[BarUpdate, None]:
    """The hours of closed `minutes`; `begun` are those of the running hour and the one before it.

    An hour is closed by its last minute, or by one of a later hour. A minute that comes again corrects
    its hour, as long as that is one of the last two.
    """
    kept = {bar[0]: bar for bar in begun}
    newest_ms = max(map(HOUR.floor, kept), default=0)
    closed_ms = -1
    async for minute in minutes:
        hour_ms = HOUR.floor(minute[0])
        if newest_ms < hour_ms:
            if closed_ms < newest_ms and any(t_ms >= newest_ms for t_ms in kept):
                yield BarUpdate(_hour(kept, newest_ms), closed=True)
                closed_ms = newest_ms
            newest_ms = hour_ms
            kept = {t_ms: bar for t_ms, bar in kept.items() if t_ms >= HOUR.shift(hour_ms, -1)}
        elif hour_ms < HOUR.shift(newest_ms, -1):
            continue  # the rest of its hour is not kept any more
        kept[minute[0]] = minute
        is_last = MINUTE.end(minute[0]) == HOUR.end(minute[0])
        if is_last or hour_ms < newest_ms:
            closed_ms = max(closed_ms, hour_ms)
        yield BarUpdate(_hour(kept, hour_ms), closed=hour_ms <= closed_ms)


def _hour(kept: dict[int, Bar], hour_ms: int) -> Bar:
    minutes = sorted((bar for bar in kept.values() if HOUR.floor(bar[0]) == hour_ms), key=open_time)
    (hour,) = resample(minutes, HOUR)
    return hour
