"""The store as a command finds it: that of the daemon that runs, or the database itself.

A database server lets several in: there it is always the database itself.
"""

from __future__ import annotations

import os
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

import click

from marketd.cli.running import WrongInput

if TYPE_CHECKING:
    from marketd.config import Config
    from marketd.domain.bar import Bar
    from marketd.domain.coverage import Covered
    from marketd.domain.instrument import Series
    from marketd.domain.timerange import TimeRange
    from marketd.storage.base import Storage
    from marketd.storage.records import Checkup, QueryPlan, Stored, StoredBars

T = TypeVar("T")


class Store(Protocol):
    """What commands need of a store; `marketd.storage.Storage` says what each does."""

    async def series_list(self) -> list[Series]: ...
    async def store(
        self, series: Series, bars: Sequence[Bar], covered: Sequence[Covered], *, at_ms: int
    ) -> Stored: ...
    async def read(
        self, series: Series, span: TimeRange, *, limit: int, newest: bool = False
    ) -> StoredBars: ...
    async def check(self) -> Checkup: ...
    async def back_up(self, target: Path, *, replace: bool) -> None: ...
    async def profile(self) -> list[QueryPlan]: ...


def configured(path: Path | None) -> Config:
    """The configuration that the daemon would start with."""
    from marketd.config import load_config
    from marketd.domain.errors import ConfigError

    try:
        return load_config(path, os.environ)
    except ConfigError as error:
        raise WrongInput(error.message) from error


def run(work: Callable[[], Awaitable[T]]) -> T:
    """What `work` gives; what marketd says no with ends the command with its sentence."""
    import asyncio

    from marketd.domain.errors import MarketdError

    async def main() -> T:
        return await work()

    try:
        return asyncio.run(main())
    except MarketdError as error:
        raise click.ClickException(error.message) from error


def database_file(config: Config, otherwise: str) -> Path:
    """The database file; where there is a server instead the command ends and says `otherwise`."""
    if config.storage.is_postgres:
        raise click.ClickException(otherwise)
    return config.storage.sqlite_path


@asynccontextmanager
async def opened(config: Config, *, make: bool = False) -> AsyncIterator[Store]:
    """The store of the running daemon, or the database itself where none runs.

    Raises StorageFailed where there is no database, unless it is to be made.
    """
    async with AsyncExitStack() as stack:
        storage: Storage
        if config.storage.is_postgres:
            from marketd.storage.postgres import PostgresStorage

            storage = PostgresStorage(config.storage.url)
        else:
            from marketd.storage.sqlite import SQLiteStorage

            database = config.storage.sqlite_path
            store = await _daemons(stack, database, make=make)
            if store is not None:
                yield store
                return
            storage = SQLiteStorage(database)
        await storage.open()
        stack.push_async_callback(storage.close)
        yield storage


async def inspected(
    config: Config,
    ask: Callable[[Store], Awaitable[T]],
    alone: Callable[[Path, threading.Event], T],
) -> T:
    """What the running daemon answers, or where none runs what `alone` makes of the file as it is.

    It is not brought up to date, as the start of a daemon would.
    """
    from marketd.storage.sqlite.owner import FileOwnership
    from marketd.storage.sqlite.upkeep import apart

    database = config.storage.sqlite_path
    async with AsyncExitStack() as stack:
        store = await _daemons(stack, database)
        if store is not None:
            return await ask(store)
        with FileOwnership(database).held():
            return await apart(partial(alone, database))


async def _daemons(stack: AsyncExitStack, database: Path, *, make: bool = False) -> Store | None:
    """The store of the daemon, open until the stack ends; None where none runs."""
    from marketd.control.address import socket_beside
    from marketd.control.client import NobodyListens, connected

    try:
        return await stack.enter_async_context(connected(socket_beside(database)))
    except NobodyListens:
        if not make:
            _refuse_absence(database)
        return None


def _refuse_absence(database: Path) -> None:
    from marketd.domain.errors import StorageFailed

    if not database.exists():
        raise StorageFailed(
            f"There is no database {database} yet: marketd serve and marketd import make it. "
            "Another one is named with -c and [storage] url."
        )
