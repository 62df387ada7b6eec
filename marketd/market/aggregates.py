"""Bringing up to date what the store computes ahead, when somebody asks for it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import NamedTuple

from marketd.domain.instrument import Series
from marketd.domain.timeframe import Timeframe
from marketd.domain.timerange import TimeRange
from marketd.storage import Storage


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which stored series are meant: those that have all of these; None is any."""

    market: str | None = None
    provider: str | None = None
    symbol: str | None = None
    timeframe: Timeframe | None = None

    def holds(self, series: Series) -> bool:
        """True if `series` is meant."""
        what = series.instrument
        pairs = (
            (self.market, what.market),
            (self.provider, what.provider),
            (self.symbol, what.symbol),
            (self.timeframe, series.timeframe),
        )
        return all(wanted is None or wanted == has for wanted, has in pairs)


class Refreshed(NamedTuple):
    """How many buckets were computed; not `complete` if there was no time for more."""

    buckets: int
    complete: bool


class Aggregates:
    """Refreshes aggregates, for as long as a request may take."""

    def __init__(self, storage: Storage, *, request_timeout_ms: int) -> None:
        self._storage = storage
        self._request_timeout_s = request_timeout_ms / 1000

    async def refresh(self, wanted: Wanted, span: TimeRange) -> Refreshed:
        """Refreshes the series that are `wanted`, where `span` says; asked again, it goes on."""
        buckets = 0
        try:
            async with asyncio.timeout(self._request_timeout_s):
                for series in await self._storage.series_list():
                    if wanted.holds(series):
                        buckets += await self._storage.refresh(series, span)
        except TimeoutError:
            return Refreshed(buckets, complete=False)
        return Refreshed(buckets, complete=True)
