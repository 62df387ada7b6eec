"""New databases for the tests of one backend."""

from __future__ import annotations

from itertools import count

import pytest
from servers.postgres import PostgresServer

NUMBERS = count()


@pytest.fixture
async def name(postgres_server: PostgresServer) -> str:
    """A new, empty database."""
    name = f"test_{next(NUMBERS)}"
    await postgres_server.create(name)
    return name


@pytest.fixture
def url(postgres_server: PostgresServer, name: str) -> str:
    """Where it is, for its owner."""
    return postgres_server.url(name)
