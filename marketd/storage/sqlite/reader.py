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
        self._waiting: deque[_Read] = deque()
        self._task: asyncio.Task[None] | None = None

    async def read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """What `work` gives, or raises, in the connection's thread."""
        read = _Read(work, asyncio.get_running_loop().create_future())
        self._waiting.append(read)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._read_waiting())
        outcome: T = await read.outcome
        return outcome

    async def finish(self) -> None:
        """Returns once all that was asked is answered."""
        if self._task is not None:
            await asyncio.wait([self._task])

    async def _read_waiting(self) -> None:
        while self._waiting:
            works = [read.work for read in self._waiting]
            try:
                outcomes = await self._connection.run(partial(_first_of, works))
            except ValueError:  # it was closed meanwhile
                outcomes = [StorageFailed("The database is not open.")] * len(works)
            for outcome in outcomes:
                future = self._waiting.popleft().outcome
                if future.done():
                    continue  # nobody waits for it any more
                if isinstance(outcome, Exception):
                    future.set_exception(outcome)
                else:
                    future.set_result(outcome)


def _first_of(
    works: Sequence[Callable[[sqlite3.Connection], Any]], connection: sqlite3.Connection
) -> list[Any]:
    """In the thread: what the first of `works` give or raise, as many as there is time for."""
    end_s = time.perf_counter() + _GROUP_S
    outcomes: list[Any] = []
    for work in works:
        try:
            outcomes.append(work(connection))
        except Exception as error:
            outcomes.append(error)
        if time.perf_counter() > end_s:
            break
    return outcomes
