"""Coarser bars of what PostgreSQL stores: out of the rollups where those are fresh, else computed."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import NamedTuple, TypeAlias

from marketd.domain.bar import Bar
from marketd.domain.timeframe import Timeframe
from marketd.domain.timerange import TimeRange, subtract
from marketd.storage.postgres import freshness
from marketd.storage.postgres.bars import PIECE, read_bars
from marketd.storage.postgres.connection import Connection, Connections
from marketd.storage.rollups import (
    KEPT,
    is_kept,
    resampled,
    to_refresh,
    touched_buckets,
    whole_buckets,
)

# Base bars read and resampled at once, unless one bucket holds more.
CHUNK = 50_000
# Of fewer base bars a run is sooner computed each time than kept: the hours of today, say.
_WORTH_KEEPING = 24 * 60
# Above this many bars resampling leaves the event loop.
_INLINE = 2_000

_EXTENT = "SELECT min(t), max(t) FROM bar WHERE series = $1"
_LOCK = "SELECT 1 FROM series WHERE id = $1 FOR NO KEY UPDATE"
# What is computed can be computed again: its commit waits for no disk.
_RELAXED = "SET LOCAL synchronous_commit = off"
_READ = """
    SELECT t, open, high, low, close, volume FROM rollup
    WHERE series = $1 AND timeframe = $2 AND t >= $3 AND t < $4
"""
_FIRST = f"{_READ} ORDER BY t LIMIT $5"
_LAST = f"{_READ} ORDER BY t DESC LIMIT $5"
_DELETE = "DELETE FROM rollup WHERE series = $1 AND timeframe = $2 AND t >= $3 AND t < $4"
_INSERT = """
    INSERT INTO rollup (series, timeframe, t, open, high, low, close, volume)
    SELECT $1, $2, * FROM unnest(
        $3::bigint[], $4::float8[], $5::float8[], $6::float8[], $7::float8[], $8::float8[])
"""


class Asked(NamedTuple):
    """Which bars are wanted: the row of the series, its own timeframe, and theirs."""

    series_id: int
    base: Timeframe
    timeframe: Timeframe


Reader: TypeAlias = Callable[[TimeRange, int], Awaitable[list[Bar]]]


class Rollups:
    """Coarser bars in a table, made when they are first asked for: the way of plain PostgreSQL."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections

    async def aggregate(self, asked: Asked, span: TimeRange, *, limit: int, newest: bool) -> list[Bar]:
        """See Storage.aggregate."""
        span = whole_buckets(asked.timeframe, span)
        span = span.clip(await self.extent(asked.series_id, asked.timeframe))
        bars: list[Bar] = []
        pieces = await self._pieces(asked, span)
        for piece, is_fresh in reversed(pieces) if newest else pieces:
            wanted = limit - len(bars)
            if wanted <= 0:
                break
            if is_fresh:
                found = await self._ready(asked, piece, wanted, newest)
            else:
                found = await self._missing(asked, piece, wanted, newest)
            bars = [*found, *bars] if newest else [*bars, *found]
        return bars

    async def refresh(self, series: Mapping[int, Timeframe], span: TimeRange) -> int:
        """See Storage.refresh; `series` are rows with their base timeframes."""
        count = 0
        for series_id, base in series.items():
            async with self._connections.one() as connection:
                used = await freshness.kept(connection, series_id)
            for timeframe in to_refresh(base, [one for one in KEPT if str(one) in used]):
                asked = Asked(series_id, base, timeframe)
                for piece in await self._stale(asked, span):
                    for chunk in _chunks(asked, piece):
                        count += len(await self._make(asked, chunk))
        return count

    async def extent(self, series_id: int, timeframe: Timeframe) -> TimeRange:
        """The buckets from that of the first stored bar to that of the last."""
        async with self._connections.one() as connection:
            ((first_ms, last_ms),) = await connection.fetch(_EXTENT, series_id)
        if first_ms is None:
            return TimeRange(0, 0)
        return touched_buckets(timeframe, TimeRange(first_ms, last_ms + 1))

    def _kept(self, asked: Asked) -> str | None:
        """The name of what is kept that serves a question."""
        return str(asked.timeframe) if is_kept(asked.base, asked.timeframe) else None

    async def _pieces(self, asked: Asked, span: TimeRange) -> list[tuple[TimeRange, bool]]:
        """`span` cut into what is fresh and what is not."""
        kept = self._kept(asked)
        if span.is_empty:
            return []
        if kept is None:
            return [(span, False)]
        async with self._connections.one() as connection:
            ranges = await freshness.fresh(connection, asked.series_id, kept, span)
        whole = [whole_buckets(asked.timeframe, one.clip(span)) for one in ranges]
        fresh = [one for one in whole if not one.is_empty]
        missing = subtract(span, fresh)
        return sorted([*((one, True) for one in fresh), *((one, False) for one in missing)])

    async def _stale(self, asked: Asked, span: TimeRange) -> list[TimeRange]:
        """What of the whole buckets in `span` is not fresh."""
        whole = whole_buckets(asked.timeframe, span)
        whole = whole.clip(await self.extent(asked.series_id, asked.timeframe))
        return [piece for piece, is_fresh in await self._pieces(asked, whole) if not is_fresh]

    async def _ready(self, asked: Asked, span: TimeRange, limit: int, newest: bool) -> list[Bar]:
        """Buckets of a fresh piece."""
        statement = _LAST if newest else _FIRST
        async with self._connections.one() as connection:
            rows = await connection.fetch(statement, asked.series_id, str(asked.timeframe), *span, limit)
        bars: list[Bar] = [tuple(row) for row in rows]
        return bars[::-1] if newest else bars

    async def _missing(self, asked: Asked, span: TimeRange, limit: int, newest: bool) -> list[Bar]:
        """Buckets of a piece that is not fresh: it is, from then on, if that is worth it."""
        most = (span.end_ms - span.start_ms) // asked.base.nominal_ms
        if self._kept(asked) is None or most < _WORTH_KEEPING:
            return await self._computed(asked, span, limit, newest)
        bars: list[Bar] = []
        chunks = list(_chunks(asked, span))
        for chunk in reversed(chunks) if newest else chunks:
            found = await self._make(asked, chunk)
            bars = [*found, *bars] if newest else [*bars, *found]
            if len(bars) >= limit:
                break
        return _limited(bars, limit, newest)

    async def _make(self, asked: Asked, span: TimeRange) -> list[Bar]:
        """Makes the buckets of `span` and keeps them."""
        row = (asked.series_id, str(asked.timeframe))
        async with self._connections.one() as connection, connection.transaction():
            await connection.execute(_RELAXED)
            await lock_row(connection, asked.series_id)
            most = (span.end_ms - span.start_ms) // asked.base.nominal_ms
            base_bars = await read_bars(connection, asked.series_id, span, limit=most)
            bars, _ = await _resampled(base_bars, asked.timeframe, span, cut=False, newest=False)
            await connection.execute(_DELETE, *row, *span)
            for first in range(0, len(bars), PIECE):
                piece = bars[first : first + PIECE]
                await connection.execute(_INSERT, *row, *zip(*piece, strict=True))
            await freshness.freshen(connection, *row, [span])
        return bars

    async def _computed(self, asked: Asked, span: TimeRange, limit: int, newest: bool) -> list[Bar]:
        """Buckets out of the base bars."""

        async def read(span: TimeRange, limit: int) -> list[Bar]:
            async with self._connections.one() as connection:
                return await read_bars(connection, asked.series_id, span, limit=limit, newest=newest)

        bucket = asked.base.most_in(asked.timeframe)
        return await self._resample(read, bucket, asked.timeframe, span, limit, newest)

    async def _resample(
        self,
        read: Reader,
        bucket: int,
        timeframe: Timeframe,
        span: TimeRange,
        limit: int,
        newest: bool,
    ) -> list[Bar]:
        """Buckets of what `read` gives, of which a bucket holds `bucket` at the most."""
        bars: list[Bar] = []
        while len(bars) < limit and not span.is_empty:
            # With one more than a bucket holds there is always a whole one among them.
            enough = max(min((limit - len(bars)) * bucket, CHUNK), bucket) + 1
            found = await read(span, enough)
            cut = len(found) == enough
            whole, span = await _resampled(found, timeframe, span, cut=cut, newest=newest)
            bars = [*whole, *bars] if newest else [*bars, *whole]
        return _limited(bars, limit, newest)


async def lock_row(connection: Connection, series_id: int) -> None:
    """Within a transaction: nobody else writes to the series until it ends."""
    await connection.execute(_LOCK, series_id)


async def _resampled(
    bars: list[Bar], timeframe: Timeframe, span: TimeRange, *, cut: bool, newest: bool
) -> tuple[list[Bar], TimeRange]:
    if len(bars) > _INLINE:
        return await asyncio.to_thread(resampled, bars, timeframe, span, cut=cut, newest=newest)
    return resampled(bars, timeframe, span, cut=cut, newest=newest)


def _limited(bars: list[Bar], limit: int, newest: bool) -> list[Bar]:
    return bars[max(0, len(bars) - limit) :] if newest else bars[:limit]


def _chunks(asked: Asked, span: TimeRange) -> Iterator[TimeRange]:
    """`span`, of whole buckets, in pieces of so many that about CHUNK base bars fit."""
    count = max(1, CHUNK // asked.base.most_in(asked.timeframe))
    start_ms = span.start_ms
    while start_ms < span.end_ms:
        end_ms = min(asked.timeframe.shift(start_ms, count), span.end_ms)
        yield TimeRange(start_ms, end_ms)
        start_ms = end_ms
