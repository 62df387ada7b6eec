"""Locks of ranges: whoever wants a part of a series or tape waits for those who are at the same."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple

from marketd.domain.instrument import Instrument, Series
from marketd.domain.timerange import TimeRange


class RangeLocks:
    """At most one holder of any time of a series."""

    def __init__(self) -> None:
        self._held: dict[Series | Instrument, list[_Hold]] = {}

    @asynccontextmanager
    async def hold(self, series: Series | Instrument, span: TimeRange) -> AsyncIterator[bool]:
        """Holds `span`, once nobody holds a part of it; gives True if that had to be waited for."""
        has_waited = False
        while True:
            held = self._held.get(series, [])
            other = next((one for one in held if not one.span.clip(span).is_empty), None)
            if other is None:
                break
            has_waited = True
            await other.released.wait()
        mine = _Hold(span, asyncio.Event())
        self._held.setdefault(series, []).append(mine)
        try:
            yield has_waited
        finally:
            self._held[series].remove(mine)
            if not self._held[series]:
                del self._held[series]
            mine.released.set()


class _Hold(NamedTuple):
    span: TimeRange
    released: asyncio.Event
