"""Reads in groups: those that wait go to the connection's thread together, and come back together.

Each time one thread gives way to the other costs about as much as reading a page of bars.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeVar

from marketd.domain.errors import StorageFailed
from marketd.storage.sqlite.connection import Connection

T = TypeVar("T")

# A group ends with the read during which it has taken so long: the first has waited for the last.
_GROUP_S = 0.002


class _Read(NamedTuple):
    work: Callable[[sqlite3.Connection], Any]
    outcome: asyncio.Future[Any]


class Reader:
    """Reads through one connection, in the order in which it is asked."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._loop = asyncio.get_running_loop()
        # Those that are being read are the first of them.
        self._waiting: deque[_Read] = deque()
        self._is_reading = False

    async def read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """What `work` gives, or raises, in the connection's thread."""
        read = _Read(work, self._loop.create_future())
        self._waiting.append(read)
        if not self._is_reading:
            self._begin_soon()
        outcome: T = await read.outcome
        return outcome

    async def finish(self) -> None:
        """Returns once all that was asked is answered."""
        if self._waiting:
            await asyncio.wait([read.outcome for read in self._waiting])

    def _begin_soon(self) -> None:
        # Once those who have just been answered have gone on: what they ask next comes along, and the
        # thread does not get into their way.
        self._is_reading = True
        self._loop.call_soon(self._begin)

    def _begin(self) -> None:
        works = [read.work for read in self._waiting]
        try:
            self._connection.call(partial(self._read, works))
        except ValueError:  # it was closed meanwhile
            self._answer([StorageFailed("The database is not open.")] * len(works))

    def _read(
        self, works: Sequence[Callable[[sqlite3.Connection], Any]], connection: sqlite3.Connection
    ) -> None:
        """In the thread: does the first of `works`, as many as there is time for."""
        end_s = time.perf_counter() + _GROUP_S
        outcomes: list[Any] = []
        for work in works:
            try:
                outcomes.append(work(connection))
            except Exception as error:
                outcomes.append(error)
            if time.perf_counter() > end_s:
                break
        # Ahead of what is told of later writes.
        self._loop.call_soon_threadsafe(self._answer, outcomes)

    def _answer(self, outcomes: Sequence[Any]) -> None:
        for outcome in outcomes:
            future = self._waiting.popleft().outcome
            if future.done():
                continue  # nobody waits for it any more
            if isinstance(outcome, Exception):
                future.set_exception(outcome)
            else:
                future.set_result(outcome)
        self._is_reading = False
        if self._waiting:
            self._begin_soon()
