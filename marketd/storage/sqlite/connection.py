"""A connection to SQLite that runs whole functions in a thread of its own."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TypeVar

import aiosqlite

T = TypeVar("T")


class Connection(aiosqlite.Connection):
    """aiosqlite's connection, able to run a whole function in its thread.

    A function is one step there: it cannot be cancelled half-way, and no read comes between its
    statements, so a transaction never stays open and is never seen unfinished.
    """

    @classmethod
    async def over(cls, raw: sqlite3.Connection) -> Connection:
        """Gives `raw` to a thread of its own; nobody else may use it from now on."""
        connection = cls(lambda: raw, iter_chunk_size=64)
        await connection
        return connection

    async def run(self, function: Callable[[sqlite3.Connection], T]) -> T:
        result: T = await self._execute(function, self._conn)  # type: ignore[no-untyped-call]
        return result

    def call(self, function: Callable[[sqlite3.Connection], None]) -> None:
        """The same for a function that tells by itself what has come of it; it must not raise.

        Raises ValueError once it is closed.
        """
        self._tx.put_nowait((None, partial(function, self._conn)))


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[None]:
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
