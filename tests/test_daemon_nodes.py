"""What a daemon says of the other nodes: over a server with them, over a file without."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
from redis_server import RedisServer
from servers.postgres import PostgresServer

from marketd.config import Config, RedisConfig, ServerConfig, StorageConfig
from marketd.daemon import Daemon

PATIENCE_S = 30


@asynccontextmanager
async def serving(storage: str, redis: str) -> AsyncIterator[Daemon]:
    config = Config(
        server=ServerConfig(port=0), storage=StorageConfig(url=storage), redis=RedisConfig(url=redis)
    )
    daemon = Daemon(config)
    await daemon.start()
    try:
        yield daemon
    finally:
        await daemon.stop()


async def ready(daemon: Daemon) -> dict[str, Any]:
    async with aiohttp.ClientSession() as session, session.get(f"{daemon.url}/readyz") as response:
        assert response.status == 200
        body: dict[str, Any] = await response.json()
        return body


async def until(daemon: Daemon, state: str) -> str:
    """Why the nodes are in `state`, once they are."""
    async with asyncio.timeout(PATIENCE_S):
        while True:
            nodes = (await ready(daemon))["nodes"]
            if nodes["state"] == state:
                message: str = nodes["message"]
                return message
            await asyncio.sleep(0.05)


async def test_a_node_that_loses_redis_is_ready_says_that_it_is_alone_and_returns(
    postgres_server: PostgresServer, tmp_path: Path
) -> None:
    connection = await asyncpg.connect(postgres_server.url())
    await connection.execute("CREATE DATABASE daemon_nodes")
    await connection.close()
    with RedisServer(tmp_path) as redis:
        redis.start()
        async with serving(postgres_server.url("daemon_nodes"), redis.url) as daemon:
            assert await until(daemon, "together") == ""
            redis.stop()
            assert "Redis is away" in await until(daemon, "alone")
            assert daemon.metrics.bus_up._value.get() == 0
            redis.start()
            assert await until(daemon, "together") == ""
            assert daemon.metrics.bus_up._value.get() == 1


async def test_a_database_file_has_one_node_also_with_redis(tmp_path: Path, redis_url: str) -> None:
    async with serving(f"sqlite:///{tmp_path / 'marketd.db'}", redis_url) as daemon:
        assert (await ready(daemon))["nodes"] == {"state": "one", "message": ""}
