"""The PostgreSQL store: writes grouped into durable transactions, reads beside them."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial

from marketd.domain.bar import Bar, Tick
from marketd.domain.coverage import Covered
from marketd.domain.errors import MarketdError, StorageFailed, Superseded
from marketd.domain.instrument import Instrument, Series
from marketd.domain.timeframe import Timeframe
from marketd.domain.timerange import MAX_MS, MIN_MS, TimeRange
from marketd.storage.base import Storage
from marketd.storage.postgres import bars as bar_rows
from marketd.storage.postgres import jobs as job_rows
from marketd.storage.postgres import names
from marketd.storage.postgres import ticks as tick_rows
from marketd.storage.postgres.aggregates import Asked, Rollups
from marketd.storage.postgres.checkup import check
from marketd.storage.postgres.connection import (
    FAILURES,
    Connection,
    Connections,
    is_away,
    kind_of,
    reason,
)
from marketd.storage.postgres.notes import Note, Notes
from marketd.storage.postgres.opening import prepare
from marketd.storage.postgres.profile import profile
from marketd.storage.postgres.timescale import Views
from marketd.storage.records import (
    AddedTicks,
    Change,
    Checkup,
    Job,
    NumberedTick,
    QueryPlan,
    Revised,
    Stored,
    StoredBars,
    StoredTicks,
)

log = logging.getLogger(__name__)

# One transaction takes the writes that are waiting, up to this many: one flush to disk for all.
_GROUP = 500
_CLOSE_S = 5.0
# How often views are looked after; the database's own policies come as often.
_REFRESH_S = 600.0

_PROBE = "UPDATE marketd_schema SET version = version"


@dataclass(slots=True, eq=False)
class _Write:
    """One call of `store`, and what comes of it."""

    series: Series
    bars: Sequence[Bar]
    covered: Sequence[Covered]
    at_ms: int
    fence: int | None
    outcome: asyncio.Future[Stored]

    @property
    def span(self) -> TimeRange:
        """What its bars, of which it has some, open in."""
        return TimeRange(self.bars[0][0], self.bars[-1][0] + 1)

    def change(self, stored: Stored | None) -> Change:
        """What listeners here are told of it; None: nobody knows what it has changed."""
        return Change(self.series, self.span, stored is None or _is_revision(stored))

    def note(self, series_id: int, stored: Stored) -> Note:
        """What other processes are told of it."""
        return Note(series_id, self.span, _is_revision(stored))


def _is_revision(stored: Stored) -> bool:
    return bool(stored.revised or stored.late)


class PostgresStorage(Storage):
    """Everything in one schema of a PostgreSQL database, plain or with TimescaleDB."""

    def __init__(self, url: str, *, connections: int = 4, patience_s: float = 10.0) -> None:
        super().__init__()
        self._url = url
        self._most = connections
        self._patience_s = patience_s
        self._changing = asyncio.Lock()
        self._connections: Connections | None = None
        self._ids = names.Ids()
        self._waiting: deque[_Write] = deque()
        self._writing: asyncio.Task[None] | None = None
        self._aggregates: Rollups
        self._notes: Notes
        self._refreshing: asyncio.Task[None] | None = None

    async def open(self) -> None:
        async with self._changing:
            connections = await Connections.open(self._url, most=self._most, patience_s=self._patience_s)
            try:
                found, self.identity = await prepare(connections)
                self._notes = Notes(connections, self._tell, partial(self._failed, "written"))
                with self._saying("opened"):
                    # Without anybody who listens there is no need for one more connection.
                    await self._notes.open(hears=bool(self._listeners))
            except BaseException:
                connections.terminate()
                raise
            self.lacks = found.lacks
            self._ids = names.Ids()
            self._connections = connections
            if found.schema:
                self._aggregates = Views(connections, found.schema)
                self._refreshing = asyncio.create_task(self._keep_fresh())
            else:
                self._aggregates = Rollups(connections)

    async def close(self) -> None:
        async with self._changing:
            connections, self._connections = self._connections, None
            if connections is None:
                return
            try:
                await self._end_tasks(connections)
            except FAILURES:
                # It is away, or so slow that what is under way is given up; whoever waits is told.
                connections.terminate()
            except BaseException:
                connections.terminate()
                raise

    async def _end_tasks(self, connections: Connections) -> None:
        await self._notes.close()
        if self._refreshing is not None:
            self._refreshing.cancel()
            await asyncio.wait([self._refreshing])
            self._refreshing = None
        async with asyncio.timeout(_CLOSE_S):
            if self._writing is not None:
                await asyncio.wait([self._writing])
            await connections.close()

    async def probe(self) -> None:
        async with self._work("written") as connection:
            await connection.execute(_PROBE)
        self._set_fault("")

    async def store(
        self,
        series: Series,
        bars: Sequence[Bar],
        covered: Sequence[Covered],
        *,
        at_ms: int,
        fence: int | None = None,
    ) -> Stored:
        connections = self._opened()
        outcome: asyncio.Future[Stored] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Write(series, bars, covered, at_ms, fence, outcome))
        # Whichever call comes first writes for all that wait, in a task that no caller can cancel.
        if self._writing is None or self._writing.done():
            self._writing = asyncio.create_task(self._write_waiting(connections))
        return await outcome

    async def lead(self, what: Series | Instrument) -> int:
        async with self._work("written") as connection:
            async with connection.transaction():
                row_id, fence = await names.advance_fence(connection, self._ids, what)
            self._ids.keep([(what, row_id)])
        self._set_fault("")
        return fence

    async def read(
        self, series: Series, span: TimeRange, *, limit: int, newest: bool = False
    ) -> StoredBars:
        async with self._work("read") as connection:
            series_id = await self._ids.find(connection, series)
            if series_id is None or span.is_empty:
                return StoredBars([], [])
            return await bar_rows.read(connection, series_id, span, limit=limit, newest=newest)

    async def revised(self, series: Series, *, after: int, limit: int) -> Revised:
        async with self._work("read") as connection:
            series_id = await self._ids.find(connection, series)
            if series_id is None:
                return Revised(0, [])
            return await bar_rows.revised(connection, series_id, after, limit)

    async def series_list(self) -> list[Series]:
        async with self._work("read") as connection:
            return await names.all_series(connection)

    async def aggregate(
        self, base: Series, timeframe: Timeframe, span: TimeRange, *, limit: int, newest: bool = False
    ) -> list[Bar]:
        self._opened()
        with self._saying("read"):
            async with self._work("read") as connection:
                series_id = await self._ids.find(connection, base)
            if series_id is None:
                return []
            asked = Asked(series_id, base.timeframe, timeframe)
            return await self._aggregates.aggregate(asked, span, limit=limit, newest=newest)

    async def refresh(self, base: Series | None = None, span: TimeRange | None = None) -> int:
        async with self._work("read") as connection:
            series = [base] if base is not None else await names.all_series(connection)
            ids = [(await self._ids.find(connection, one), one.timeframe) for one in series]
        rows = {series_id: timeframe for series_id, timeframe in ids if series_id is not None}
        with self._saying("written"):
            return await self._aggregates.refresh(rows, span or TimeRange(MIN_MS, MAX_MS))

    async def store_ticks(
        self,
        instrument: Instrument,
        ticks: Sequence[Tick],
        covered: Sequence[Covered] = (),
        *,
        fence: int | None = None,
    ) -> AddedTicks:
        async with self._work("written") as connection:
            async with connection.transaction():
                instrument_id = await self._ids.ensure(connection, instrument)
                row, before = await names.lock_instrument(connection, instrument_id)
                row.admit(fence)
                added = await tick_rows.store(connection, row.id, before, ticks, covered)
            self._ids.keep([(instrument, instrument_id)])
        self._set_fault("")
        return added

    async def read_ticks(
        self, instrument: Instrument, span: TimeRange, *, limit: int, newest: bool = False
    ) -> StoredTicks:
        async with self._work("read") as connection:
            instrument_id = await self._ids.find(connection, instrument)
            if instrument_id is None or span.is_empty:
                return StoredTicks([], [])
            return await tick_rows.read(connection, instrument_id, span, limit=limit, newest=newest)

    async def ticks_after(
        self, instrument: Instrument, number: int, *, until: int, limit: int
    ) -> list[NumberedTick]:
        async with self._work("read") as connection:
            instrument_id = await self._ids.find(connection, instrument)
            if instrument_id is None:
                return []
            return await tick_rows.after(connection, instrument_id, number, until, limit)

    async def drop_ticks(self, before_ms: int) -> int:
        total = 0
        async with self._work("read") as connection:
            instruments = await names.all_instruments(connection)
        for instrument_id in instruments:
            while True:
                async with self._work("written") as connection:
                    gone = await tick_rows.drop(connection, instrument_id, before_ms)
                if gone == 0:
                    break
                total += gone
        return total

    async def save_job(self, job: Job, *, lease_ms: int = 0) -> None:
        async with self._work("written") as connection:
            await job_rows.save(connection, job, lease_ms)
        self._set_fault("")

    async def claim_jobs(self, kind: str, *, now_ms: int, most: int, lease_ms: int) -> list[Job]:
        async with self._work("written") as connection:
            return await job_rows.claim(connection, kind, now_ms, most, lease_ms)

    async def job(self, job_id: str) -> Job | None:
        async with self._work("read") as connection:
            return await job_rows.one(connection, job_id)

    async def jobs(self, kind: str) -> list[Job]:
        async with self._work("read") as connection:
            return await job_rows.read(connection, kind)

    async def delete_job(self, job_id: str) -> None:
        async with self._work("written") as connection:
            await job_rows.delete(connection, job_id)

    async def check(self) -> Checkup:
        return await check(self._opened())

    async def profile(self) -> list[QueryPlan]:
        connections = self._opened()
        with self._saying("profiled"):
            return await profile(connections, views=isinstance(self._aggregates, Views))

    def _opened(self) -> Connections:
        if self._connections is None:
            raise StorageFailed("The database is not open.")
        return self._connections

    @asynccontextmanager
    async def _work(self, done: str) -> AsyncIterator[Connection]:
        """A connection for something that is `read` or `written`, as StorageFailed will say."""
        connections = self._opened()
        with self._saying(done):
            async with connections.one() as connection:
                yield connection

    @contextmanager
    def _saying(self, done: str) -> Iterator[None]:
        try:
            yield
        except FAILURES as error:
            raise self._failed(done, error) from error

    def _failed(self, done: str, error: BaseException) -> StorageFailed:
        message = f"The database cannot be {done}: {reason(error)}."
        # Who cannot read may wait with what there is to write, so that no write would find this out.
        if is_away(error):
            self._set_fault(message, kind_of(error))
        return StorageFailed(message)

    async def _keep_fresh(self) -> None:
        while True:
            await asyncio.sleep(_REFRESH_S)
            try:
                await self.refresh()
            except StorageFailed as error:
                # What is out of date is computed meanwhile, and the next round makes up for it.
                log.info("views not refreshed reason=%s", error.message)

    async def _write_waiting(self, connections: Connections) -> None:
        while self._waiting:
            group = [self._waiting.popleft() for _ in range(min(len(self._waiting), _GROUP))]
            await self._write(connections, group)

    async def _write(self, connections: Connections, group: Sequence[_Write]) -> None:
        """Writes all of `group`; if that fails, each of them alone, so that only the faulty fail."""
        try:
            async with connections.one() as connection:
                async with connection.transaction():
                    rows = await names.lock(connection, self._ids, (write.series for write in group))
                    results = []
                    notes = []
                    for write in group:
                        row = rows[write.series]
                        row.admit(write.fence)
                        stored = await bar_rows.store(
                            connection, row.id, write.bars, write.covered, write.at_ms
                        )
                        results.append(stored)
                        if stored.inserted or stored.revised:
                            notes.append(write.note(row.id, stored))
                    await self._notes.say(connection, notes)
                self._ids.keep((series, row.id) for series, row in rows.items())
        except Exception as error:
            if len(group) > 1 and not is_away(error):
                for write in group:
                    await self._write(connections, [write])
                return
            failure: MarketdError
            if isinstance(error, Superseded):
                failure = error
            else:
                failure = self._failed("written", error)
                failure.__cause__ = error
            for write in group:
                # A server that goes away may have committed before: whoever keeps answers looks again.
                if is_away(error) and write.bars:
                    self._tell(write.change(None))
                if not write.outcome.done():
                    write.outcome.set_exception(failure)
        else:
            self._set_fault("")
            for write, stored in zip(group, results, strict=True):
                if stored.inserted or stored.revised:
                    self._tell(write.change(stored))
                if not write.outcome.done():
                    write.outcome.set_result(stored)
