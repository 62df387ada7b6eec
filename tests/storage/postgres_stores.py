"""Connections to a PostgreSQL of the tests, and stores over it, for as long as a block lasts."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import asyncpg

from marketd.storage.postgres import PostgresStorage


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[asyncpg.Connection[asyncpg.Record]]:
    connection = await asyncpg.connect(url)
    try:
        yield connection
    finally:
        await connection.close()


@asynccontextmanager
async def opened(url: str, **options: float) -> AsyncIterator[PostgresStorage]:
    storage = PostgresStorage(url, **options)  # type: ignore[arg-type]
    await storage.open()
    try:
        yield storage
    finally:
        await storage.close()
