"""Fixtures that every room's tests share."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from redis_server import RedisServer
from servers import postgres, timescaledb

ROOT = Path(__file__).resolve().parents[1]

# How long an example takes says more of what else the machine does than of the code.
settings.register_profile("unhurried", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("unhurried")


@pytest.fixture
def recordings() -> Path:
    """The folder of real recordings; where it is absent, the test is reported as not run."""
    folder = Path(os.environ.get("MARKETD_RECORDINGS", ROOT.parent / "shared" / "data"))
    if not (folder / "bars").is_dir():
        pytest.skip(f"no real recordings at {folder}: set MARKETD_RECORDINGS")
    return folder


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A Redis of this session's own, started for the first test that wants one."""
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        server.start()
        yield server


@pytest.fixture
def redis_url(redis_server: RedisServer) -> str:
    """The address of that Redis."""
    return redis_server.url


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[postgres.PostgresServer]:
    """A PostgreSQL that runs as long as the tests do; who restarts it starts one of their own."""
    with postgres.running() as server:
        yield server


@pytest.fixture(scope="session")
def timescale_url() -> Iterator[str]:
    """Where a TimescaleDB is that runs as long as the tests do, and takes one connection at a time."""
    with timescaledb.running() as url:
        yield url
