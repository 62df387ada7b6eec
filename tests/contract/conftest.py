"""The backends that every contract is held against. One more backend is one more entry here."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import count
from pathlib import Path
from typing import TypeAlias

import asyncpg
import pytest
from hypothesis import settings
from servers.postgres import PostgresServer

from marketd.storage import Storage
from marketd.storage.postgres import PostgresStorage
from marketd.storage.sqlite import SQLiteStorage

Database: TypeAlias = Callable[[], Storage]  # makes a store, not yet open, always over the same data
NewDatabase: TypeAlias = Callable[[], Database]  # makes an empty database


def _sqlite(request: pytest.FixtureRequest) -> NewDatabase:
    folder: Path = request.getfixturevalue("tmp_path_factory").mktemp("sqlite")
    numbers = count()

    def new_database() -> Database:
        path = folder / f"{next(numbers)}.db"
        return lambda: SQLiteStorage(path)

    return new_database


def _postgres(request: pytest.FixtureRequest) -> NewDatabase:
    server: PostgresServer = request.getfixturevalue("postgres_server")
    return _schemas(server.url(), partial(PostgresStorage, connections=3))


def _timescale(request: pytest.FixtureRequest) -> NewDatabase:
    # It has one connection for everything.
    return _schemas(request.getfixturevalue("timescale_url"), partial(PostgresStorage, connections=1))


# What leaves a schema as empty as a new one, at a fraction of the time: the rows of every table.
_EMPTY = """
    SELECT 'BEGIN;' || coalesce(string_agg(format('DELETE FROM %I;', tablename), ''), '') || 'COMMIT;'
    FROM pg_tables
    WHERE schemaname = 'contract' AND tablename <> 'marketd_schema'
"""


def _schemas(url: str, make: Callable[[str], Storage]) -> NewDatabase:
    """An empty database is one schema, emptied: a test has one at a time."""
    anywhere = ThreadPoolExecutor(1)  # where another loop may run than the test's
    where = f"{url}{'&' if '?' in url else '?'}search_path=contract"

    async def empty() -> None:
        connection = await asyncpg.connect(where)
        await connection.execute("CREATE SCHEMA IF NOT EXISTS contract")
        await connection.execute(await connection.fetchval(_EMPTY))
        await connection.close()

    def new_database() -> Database:
        anywhere.submit(asyncio.run, empty()).result()
        return lambda: make(where)

    return new_database


STORAGES: Mapping[str, Callable[[pytest.FixtureRequest], NewDatabase]] = {
    "sqlite": _sqlite,
    "postgres": _postgres,
    "timescale": _timescale,
}


@pytest.fixture(scope="session", params=STORAGES)
def new_database(request: pytest.FixtureRequest) -> NewDatabase:
    """Empty databases of one backend, as many as a test asks for."""
    return STORAGES[request.param](request)


@pytest.fixture
def examples(request: pytest.FixtureRequest) -> Callable[[int], int]:
    """How many examples to try of those that a test wants: a server takes its time for each."""
    backend = (
        request.node.callspec.params.get("new_database")
        if "new_database" in request.fixturenames
        else None
    )
    return lambda wanted: wanted if backend in (None, "sqlite") else max(1, wanted // 4)


@pytest.fixture(autouse=True)
def _fewer_examples(request: pytest.FixtureRequest) -> Iterator[None]:
    """Applies `examples` to a property test, whose settings are shared by all backends."""
    own = getattr(request.function, "_hypothesis_internal_use_settings", None)
    if own is None:
        yield
        return
    fewer = request.getfixturevalue("examples")(own.max_examples)
    request.function._hypothesis_internal_use_settings = settings(own, max_examples=fewer)
    yield
    request.function._hypothesis_internal_use_settings = own


@pytest.fixture
def database(new_database: NewDatabase) -> Database:
    """One empty database, to be opened, closed and opened again."""
    return new_database()


@pytest.fixture
async def storage(database: Database) -> AsyncIterator[Storage]:
    """An open store over an empty database."""
    storage = database()
    await storage.open()
    yield storage
    await storage.close()
