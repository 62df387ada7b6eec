"""The backends that every contract is held against. One more backend is one more entry here."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from itertools import count
from pathlib import Path
from typing import TypeAlias

import pytest

from marketd.storage import Storage
from marketd.storage.sqlite import SQLiteStorage

Database: TypeAlias = Callable[[], Storage]  # makes a store, not yet open, always over the same data
NewDatabase: TypeAlias = Callable[[], Database]  # makes an empty database


def _sqlite(folder: Path) -> NewDatabase:
    numbers = count()

    def new_database() -> Database:
        path = folder / f"{next(numbers)}.db"
        return lambda: SQLiteStorage(path)

    return new_database


STORAGES: Mapping[str, Callable[[Path], NewDatabase]] = {"sqlite": _sqlite}


@pytest.fixture(scope="session", params=STORAGES)
def new_database(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> NewDatabase:
    """Empty databases of one backend, as many as a test asks for."""
    return STORAGES[request.param](tmp_path_factory.mktemp(request.param))


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
