"""When stocks trade, out of Alpaca's calendar: it knows holidays and early closes."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from datetime import datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from marketd.domain.timerange import TimeRange

_NEW_YORK = ZoneInfo("America/New_York")
# Trades are reported a little before and after: only what lies further off is certainly closed.
_MARGIN = timedelta(minutes=15)


class Sessions:
    """Days of trading, from the first trade before the opening to the last after the close."""

    def __init__(self, opens_ms: Sequence[int] = (), closes_ms: Sequence[int] = ()) -> None:
        self._opens_ms = opens_ms
        self._closes_ms = closes_ms

    @staticmethod
    def of(calendar: Sequence[Mapping[str, Any]]) -> Sessions:
        """Reads the rows of `/calendar`; ValueError, TypeError or LookupError if they are none."""
        opens, closes = [], []
        for row in calendar:
            opens.append(_epoch_ms(row["date"], row["session_open"], -_MARGIN))
            closes.append(_epoch_ms(row["date"], row["session_close"], _MARGIN))
        ends = [moment for session in zip(opens, closes, strict=True) for moment in session]
        if ends != sorted(ends):
            raise ValueError("the days of the calendar are not in order")
        return Sessions(opens, closes)

    def closed(self, since_ms: int, before_ms: int) -> list[TimeRange]:
        """What of the range lies between two sessions; of what the calendar does not reach, nothing."""
        # The pause after session n is [closes[n], opens[n + 1]).
        first = bisect_right(self._opens_ms, since_ms) - 1
        stop = bisect_left(self._closes_ms, before_ms)
        pauses = (
            TimeRange(max(self._closes_ms[n], since_ms), min(self._opens_ms[n + 1], before_ms))
            for n in range(max(first, 0), min(stop, len(self._opens_ms) - 1))
        )
        return [pause for pause in pauses if not pause.is_empty]


def _epoch_ms(day: str, clock: str, shift: timedelta) -> int:
    """A time by the clock of New York, such as 2024-11-29 and 0400."""
    moment = datetime.combine(
        datetime.fromisoformat(day), time(int(clock[:2]), int(clock[-2:])), _NEW_YORK
    )
    return round((moment.timestamp() + shift.total_seconds()) * 1000)
