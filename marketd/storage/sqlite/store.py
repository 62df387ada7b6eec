"""The SQLite store: one connection in one thread, writes grouped into durable transactions.

SQLite 3.7.0 to 3.51.2 can corrupt a WAL file when two connections write and checkpoint at once. Here
there is one connection, so it cannot happen whatever the library's version.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import aiosqlite

from marketd.domain.bar import Bar, Tick
from marketd.domain.coverage import Covered
from marketd.domain.errors import StorageFailed
from marketd.domain.instrument import Instrument, Series
from marketd.domain.timeframe import Timeframe
from marketd.domain.timerange import TimeRange
from marketd.storage.base import Job, Storage, Stored, StoredBars
from marketd.storage.sqlite import statements
from marketd.storage.sqlite.owner import FileOwnership
from marketd.storage.sqlite.schema import migrate

T = TypeVar("T")

# One transaction takes the writes that are waiting, up to this many: one flush to disk for all.
_GROUP = 500


@dataclass(slots=True)
class _Write:
    """One call of `store`, and what has come of it."""

    series: Series
    bars: Sequence[Bar]
    covered: Sequence[Covered]
    at_ms: int
    outcome: Stored | Exception | None = None


class _Connection(aiosqlite.Connection):
    """aiosqlite's connection, able to run a whole function in its thread.

    A function is one step there: it cannot be cancelled half-way, and no read comes between its
    statements, so a transaction never stays open and is never seen unfinished.
    """

    @classmethod
    async def over(cls, raw: sqlite3.Connection) -> _Connection:
        """Gives `raw` to a thread of its own; nobody else may use it from now on."""
        connection = cls(lambda: raw, iter_chunk_size=64)
        await connection
        return connection

    async def run(self, function: Callable[[sqlite3.Connection], T]) -> T:
        result: T = await self._execute(function, self._conn)  # type: ignore[no-untyped-call]
        return result


class SQLiteStorage(Storage):
    """Bars and coverage in one SQLite file (WAL, synchronous=FULL)."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._path = path
        self._ownership = FileOwnership(path)
        self._changing = asyncio.Lock()
        self._connection: _Connection | None = None
        self._loop: asyncio.AbstractEventLoop
        # These belong to the connection's thread; a caller only appends to what waits.
        self._ids = statements.SeriesIds()
        self._waiting: deque[_Write] = deque()

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

    async def read(
        self, series: Series, span: TimeRange, *, limit: int, newest: bool = False
    ) -> StoredBars:
        def run(connection: sqlite3.Connection) -> StoredBars:
            return statements.read(connection, self._ids, series, span, limit, newest)

        try:
            return await self._opened().run(run)
        except (sqlite3.Error, UnicodeError) as error:
            raise StorageFailed(f"The database cannot be read: {error}.") from error

    async def store(
        self, series: Series, bars: Sequence[Bar], covered: Sequence[Covered], *, at_ms: int
    ) -> Stored:
        connection = self._opened()
        write = _Write(series, bars, covered, at_ms)
        self._waiting.append(write)
        # Whichever call comes first in the thread writes for all that wait; the others find it done.
        await connection.run(self._write_waiting)
        if isinstance(write.outcome, Stored):
            return write.outcome
        raise StorageFailed(f"The database cannot be written: {write.outcome}.") from write.outcome

    async def probe(self) -> None:
        raise NotImplementedError

    async def series_list(self) -> list[Series]:
        raise NotImplementedError

    async def aggregate(
        self, base: Series, timeframe: Timeframe, span: TimeRange, *, limit: int, newest: bool = False
    ) -> list[Bar]:
        raise NotImplementedError

    async def refresh(self, base: Series | None = None, span: TimeRange | None = None) -> int:
        raise NotImplementedError

    async def store_ticks(self, instrument: Instrument, ticks: Sequence[Tick]) -> int:
        raise NotImplementedError

    async def read_ticks(
        self, instrument: Instrument, span: TimeRange, *, limit: int, newest: bool = False
    ) -> list[Tick]:
        raise NotImplementedError

    async def drop_ticks(self, before_ms: int) -> int:
        raise NotImplementedError

    async def save_job(self, job: Job) -> None:
        raise NotImplementedError

    async def jobs(self, kind: str) -> list[Job]:
        raise NotImplementedError

    async def delete_job(self, job_id: str) -> None:
        raise NotImplementedError

    def _opened(self) -> _Connection:
        if self._connection is None:
            raise StorageFailed("The database is not open.")
        return self._connection

    async def _open(self) -> None:
        self._loop = asyncio.get_running_loop()
        # What can fail is done before aiosqlite has its thread, whose end nobody could wait for then.
        raw = await asyncio.to_thread(self._connect)
        self._connection = await _Connection.over(raw)

    async def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            # What was asked before waits in the thread ahead of this, so it is answered.
            try:
                await connection.close()
            finally:
                self._ownership.release()

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
            undo.pop_all()
        self._ids = statements.SeriesIds()
        return connection

    def _write_waiting(self, connection: sqlite3.Connection) -> None:
        """In the thread: takes what waits and writes it in one transaction."""
        group = [self._waiting.popleft() for _ in range(min(len(self._waiting), _GROUP))]
        if group:
            self._write(connection, group)

    def _write(self, connection: sqlite3.Connection, group: Sequence[_Write]) -> None:
        """Writes all of `group`; if that fails, each of them alone, so that only the faulty fail."""
        try:
            with _transaction(connection):
                results = [
                    statements.store(
                        connection, self._ids, write.series, write.bars, write.covered, write.at_ms
                    )
                    for write in group
                ]
        except Exception as error:
            for write in group:
                self._ids.forget(write.series)
            if len(group) == 1:
                group[0].outcome = error
                return
            for write in group:
                self._write(connection, [write])
        else:
            for write, stored in zip(group, results, strict=True):
                write.outcome = stored
            # Comes before what the callers wait for, and also where nobody waits any more.
            self._loop.call_soon_threadsafe(self._tell_of, group)

    def _tell_of(self, group: Sequence[_Write]) -> None:
        """In the loop: tells the listeners which bars these writes have changed."""
        for write in group:
            if isinstance(write.outcome, Stored) and (write.outcome.inserted or write.outcome.revised):
                self._tell(write.series, TimeRange(write.bars[0][0], write.bars[-1][0] + 1))


@contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    """All of what is written inside, durable, or on any error nothing."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        # After some errors, a full disk among them, SQLite has rolled back by itself.
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
