"""The SQLite store: one connection in one thread, writes grouped into durable transactions.

SQLite 3.7.0 to 3.51.2 can corrupt a WAL file when two connections write and checkpoint at once. Here
there is one connection that can do either (a check and a backup read through another, see `upkeep`), so
it cannot happen whatever the library's version.
"""

from __future__ import annotations

import asyncio
import sqlite3
import struct
from collections.abc import Callable, Iterator, Sequence
from contextlib import AsyncExitStack, ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TypeVar

from marketd.domain import packing
from marketd.domain.bar import Bar, Tick
from marketd.domain.coverage import Covered
from marketd.domain.errors import StorageFailed
from marketd.domain.instrument import Instrument, Series
from marketd.domain.timeframe import Timeframe
from marketd.domain.timerange import MAX_MS, MIN_MS, TimeRange
from marketd.storage.base import Storage
from marketd.storage.records import (
    AddedTicks,
    Change,
    Checkup,
    Job,
    QueryPlan,
    Revised,
    Stored,
    StoredBars,
    StoredTicks,
)
from marketd.storage.sqlite import bars as bar_rows
from marketd.storage.sqlite import jobs as job_rows
from marketd.storage.sqlite import rollups
from marketd.storage.sqlite import ticks as tick_rows
from marketd.storage.sqlite.checkup import check
from marketd.storage.sqlite.connection import Connection
from marketd.storage.sqlite.names import SeriesIds, all_series
from marketd.storage.sqlite.owner import FileOwnership
from marketd.storage.sqlite.probe import empty, fill
from marketd.storage.sqlite.profile import profile
from marketd.storage.sqlite.reader import Reader
from marketd.storage.sqlite.schema import migrate
from marketd.storage.sqlite.upkeep import apart, back_up
from marketd.storage.sqlite.writer import Writer

T = TypeVar("T")

_EVER = TimeRange(MIN_MS, MAX_MS)
# How many trades one transaction deletes.
_DROP_STEP = 10_000
# Above this many bars unpacking leaves the event loop.
_INLINE = 2_000


class SQLiteStorage(Storage):
    """Everything in one SQLite file (WAL, synchronous=FULL)."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path
        self._ownership = FileOwnership(path)
        self._changing = asyncio.Lock()
        self._connection: Connection | None = None
        self._reader: Reader
        self._writer: Writer
        # Belongs to the connection's thread.
        self._ids = SeriesIds()

    async def open(self) -> None:
        async with self._changing:
            opening = asyncio.ensure_future(self._open())
            try:
                await asyncio.shield(opening)
            except asyncio.CancelledError:
                # The thread cannot be stopped half-way: let it finish, then leave nothing behind.
                await asyncio.wait([opening])
                await self._close()
                raise
            except (sqlite3.Error, OSError) as error:
                raise StorageFailed(
                    f"The database {self._path} cannot be opened: {error}. "
                    "Check the path and its rights, or choose another with [storage] url."
                ) from error

    async def close(self) -> None:
        async with self._changing:
            await self._close()

    async def probe(self) -> None:
        await self._write(fill)
        await self._write(empty)

    async def store(
        self,
        series: Series,
        bars: Sequence[Bar],
        covered: Sequence[Covered],
        *,
        at_ms: int,
        fence: int | None = None,
    ) -> Stored:
        def tell(stored: Stored) -> None:
            if stored.inserted or stored.revised:
                span = TimeRange(bars[0][0], bars[-1][0] + 1)
                self._tell(Change(series, span, bool(stored.revised or stored.late)))

        return await self._write(
            lambda connection: bar_rows.store(connection, self._ids, series, bars, covered, at_ms), tell
        )

    async def read(
        self, series: Series, span: TimeRange, *, limit: int, newest: bool = False
    ) -> StoredBars:
        packed, covered = await self._read(
            lambda connection: bar_rows.read(connection, self._ids, series, span, limit, newest)
        )
        with _reading():
            # Not in the connection's thread, whose core would have to hand every number over.
            if len(packed) <= _INLINE * packing.SIZE:
                return StoredBars(packing.unpack(packed), covered)
            return StoredBars(await asyncio.to_thread(packing.unpack, packed), covered)

    async def revised(self, series: Series, *, after: int, limit: int) -> Revised:
        return await self._read(
            lambda connection: bar_rows.revised(connection, self._ids, series, after, limit)
        )

    async def series_list(self) -> list[Series]:
        return await self._read(all_series)

    async def aggregate(
        self, base: Series, timeframe: Timeframe, span: TimeRange, *, limit: int, newest: bool = False
    ) -> list[Bar]:
        left = TimeRange(timeframe.ceil(span.start_ms), timeframe.floor(span.end_ms))
        parts: list[Sequence[Bar]] = []
        missing = limit
        while missing > 0 and not left.is_empty:
            part = await self._part(base, timeframe, left, missing, newest)
            found = part.bars[-missing:] if newest else part.bars[:missing]
            parts.append(found)
            missing -= len(found)
            if newest:
                left = TimeRange(left.start_ms, part.span.start_ms)
            else:
                left = TimeRange(part.span.end_ms, left.end_ms)
        return [bar for part in (reversed(parts) if newest else parts) for bar in part]

    async def refresh(self, base: Series | None = None, span: TimeRange | None = None) -> int:
        count = 0
        for series in [base] if base else await self.series_list():
            for timeframe in await self._to_refresh(series):
                while (stale := await self._next_stale(series, timeframe, span or _EVER)) is not None:
                    count += len((await self._build(series, timeframe, stale, newest=False)).bars)
        return count

    async def store_ticks(
        self,
        instrument: Instrument,
        ticks: Sequence[Tick],
        covered: Sequence[Covered] = (),
        *,
        fence: int | None = None,
    ) -> AddedTicks:
        return await self._write(
            lambda connection: tick_rows.store(connection, instrument, ticks, covered)
        )

    async def read_ticks(
        self, instrument: Instrument, span: TimeRange, *, limit: int, newest: bool = False
    ) -> StoredTicks:
        return await self._read(
            lambda connection: tick_rows.read(connection, instrument, span, limit, newest)
        )

    async def drop_ticks(self, before_ms: int) -> int:
        count = 0
        instrument = await self._next_instrument(after=0)
        while instrument is not None:
            dropped = await self._drop_ticks(instrument, before_ms)
            count += dropped
            if dropped < _DROP_STEP:
                instrument = await self._next_instrument(after=instrument)
        return count

    async def save_job(self, job: Job, *, lease_ms: int = 0) -> None:
        await self._write(lambda connection: job_rows.save(connection, job, lease_ms))

    async def claim_jobs(self, kind: str, *, now_ms: int, most: int, lease_ms: int) -> list[Job]:
        return await self._write(
            lambda connection: job_rows.claim(connection, kind, now_ms, most, lease_ms)
        )

    async def job(self, job_id: str) -> Job | None:
        return await self._read(lambda connection: job_rows.one(connection, job_id))

    async def jobs(self, kind: str) -> list[Job]:
        return await self._read(lambda connection: job_rows.read(connection, kind))

    async def delete_job(self, job_id: str) -> None:
        await self._write(lambda connection: job_rows.delete(connection, job_id))

    async def check(self) -> Checkup:
        self._opened()
        return await apart(partial(check, self._path))

    async def back_up(self, target: Path, *, replace: bool) -> None:
        self._opened()
        await apart(lambda stop: back_up(self._path, target, replace=replace, stop=stop))

    async def profile(self) -> list[QueryPlan]:
        self._opened()
        return await apart(partial(profile, self._path))

    async def _part(
        self, base: Series, timeframe: Timeframe, span: TimeRange, limit: int, newest: bool
    ) -> rollups.Part:
        """A first part of an aggregate: as it is kept, or built now."""
        found = await self._read(
            lambda connection: rollups.read(connection, self._ids, base, timeframe, span, limit, newest)
        )
        if isinstance(found, rollups.Part):
            return found
        if not self.fault:
            try:
                return await self._build(base, timeframe, found, newest=newest)
            except StorageFailed:
                # Without a place to keep it, it is computed each time; the writer tells of the fault.
                pass
        return await self._read(
            lambda connection: rollups.compute(
                connection, self._ids, base, timeframe, found, limit, newest
            )
        )

    async def _build(
        self, base: Series, timeframe: Timeframe, span: TimeRange, *, newest: bool
    ) -> rollups.Part:
        return await self._write(
            lambda connection: rollups.build(connection, self._ids, base, timeframe, span, newest)
        )

    async def _to_refresh(self, base: Series) -> list[Timeframe]:
        return await self._read(lambda connection: rollups.to_refresh(connection, self._ids, base))

    async def _next_stale(self, base: Series, timeframe: Timeframe, span: TimeRange) -> TimeRange | None:
        return await self._read(
            lambda connection: rollups.next_stale(connection, self._ids, base, timeframe, span)
        )

    async def _next_instrument(self, after: int) -> int | None:
        return await self._read(lambda connection: tick_rows.next_instrument(connection, after))

    async def _drop_ticks(self, number: int, before_ms: int) -> int:
        return await self._write(
            lambda connection: tick_rows.drop(connection, number, before_ms, _DROP_STEP)
        )

    async def _read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        self._opened()
        with _reading():
            return await self._reader.read(work)

    async def _write(
        self, work: Callable[[sqlite3.Connection], T], done: Callable[[T], None] = lambda _: None
    ) -> T:
        connection = self._opened()
        return await self._writer.write(connection, work, done)

    def _opened(self) -> Connection:
        if self._connection is None:
            raise StorageFailed("The database is not open.")
        return self._connection

    async def _open(self) -> None:
        # What can fail is done before aiosqlite has its thread, whose end nobody could wait for then.
        raw = await asyncio.to_thread(self._connect)
        self._set_fault("")
        self._writer = Writer(undone=self._ids.forget, fault=self._set_fault)
        self._connection = await Connection.over(raw)
        self._reader = Reader(self._connection)

    async def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            async with AsyncExitStack() as leaving:
                leaving.callback(self._ownership.release)
                # What was asked before is answered: writes wait in the thread ahead of this.
                leaving.push_async_callback(connection.close)
                await self._reader.finish()

    def _connect(self) -> sqlite3.Connection:
        """Takes the file, opens it and brings its schema up to date, or undoes it all."""
        with ExitStack() as undo:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._ownership.acquire()
            undo.callback(self._ownership.release)
            connection = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
            undo.callback(connection.close)
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            migrate(connection)
            # A file that is damaged or takes no writes is served as far as it goes; the claims expire.
            with suppress(sqlite3.DatabaseError):
                job_rows.end_claims(connection)
            undo.pop_all()
        self._ids.forget()
        return connection


@contextmanager
def _reading() -> Iterator[None]:
    """What reading fails with, or what cannot be what was written, is StorageFailed."""
    try:
        yield
    except (sqlite3.Error, struct.error, UnicodeError, OverflowError) as error:
        raise StorageFailed(f"The database cannot be read: {error}.") from error
