"""Writes in groups: those that wait are committed together, with one flush to disk for all."""

from __future__ import annotations

import asyncio
import sqlite3
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from marketd.domain.errors import MarketdError, StorageFailed
from marketd.storage.base import Fault
from marketd.storage.sqlite.connection import Connection, transaction

T = TypeVar("T")

# One transaction takes the writes that are waiting, up to this many.
_GROUP = 500
_KINDS = {
    sqlite3.SQLITE_FULL: Fault.FULL,
    sqlite3.SQLITE_READONLY: Fault.READ_ONLY,
    sqlite3.SQLITE_IOERR: Fault.IO,
}


@dataclass(slots=True)
class _Write:
    """One write, and what has come of it: the outcome of `work`, or why there is none."""

    work: Callable[[sqlite3.Connection], Any]
    done: Callable[[Any], None]
    outcome: Any = None
    error: Exception | None = None


class Writer:
    """Writes through one connection.

    `undone` is called in the connection's thread after a transaction that came to nothing; `fault` in
    the loop, with a sentence and a kind when the database stops taking writes, and with none when it
    takes them again.
    """

    def __init__(self, *, undone: Callable[[], None], fault: Callable[[str, Fault], None]) -> None:
        self._undone = undone
        self._fault = fault
        self._loop = asyncio.get_running_loop()
        # These belong to the connection's thread; a caller only appends to what waits.
        self._waiting: deque[_Write] = deque()
        self._is_failing = False

    async def write(
        self,
        connection: Connection,
        work: Callable[[sqlite3.Connection], T],
        done: Callable[[T], None] = lambda _: None,
    ) -> T:
        """What `work` gives, durable, in a transaction that other writes may share.

        `done` is called in the loop once it is, before this returns and also if nobody waits any more.
        Raises StorageFailed if it could not be written, or the MarketdError of `work`; then nothing of
        it was.
        """
        write = _Write(work, done)
        self._waiting.append(write)
        # Whichever call comes first in the thread writes for all that wait; the others find it done.
        await connection.run(self._write_waiting)
        if isinstance(write.error, MarketdError):
            raise write.error
        if write.error is not None:
            raise StorageFailed(f"The database cannot be written: {write.error}.") from write.error
        outcome: T = write.outcome
        return outcome

    def _write_waiting(self, connection: sqlite3.Connection) -> None:
        """In the thread: takes what waits and writes it in one transaction."""
        group = [self._waiting.popleft() for _ in range(min(len(self._waiting), _GROUP))]
        if group:
            self._write(connection, group)

    def _write(self, connection: sqlite3.Connection, group: Sequence[_Write]) -> None:
        """Writes all of `group`; if that fails, each of them alone, so that only the faulty fail."""
        changes = connection.total_changes
        try:
            with transaction(connection):
                outcomes = [write.work(connection) for write in group]
        except Exception as error:
            self._undone()
            if len(group) > 1:
                for write in group:
                    self._write(connection, [write])
                return
            group[0].error = error
            if _is_fault(error):
                self._set_fault(f"The database cannot be written: {error}.", _kind(error))
        else:
            for write, outcome in zip(group, outcomes, strict=True):
                write.outcome = outcome
            # A transaction without a change reaches no disk, so it says nothing of one.
            if connection.total_changes > changes:
                self._set_fault("")
            # Comes before what the callers wait for, and also where nobody waits any more.
            self._loop.call_soon_threadsafe(_tell, group)

    def _set_fault(self, sentence: str, fault: Fault = Fault.OTHER) -> None:
        if self._is_failing != bool(sentence):
            self._is_failing = bool(sentence)
            self._loop.call_soon_threadsafe(self._fault, sentence, fault)


def _tell(group: Sequence[_Write]) -> None:
    for write in group:
        write.done(write.outcome)


def _is_fault(error: Exception) -> bool:
    """True of what the database or the disk is to blame for, not what was to be written."""
    return isinstance(error, sqlite3.OperationalError) or type(error) is sqlite3.DatabaseError


def _kind(error: Exception) -> Fault:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    return _KINDS.get(code, Fault.OTHER)
