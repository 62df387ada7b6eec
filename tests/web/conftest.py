"""A real daemon on a clock that the test moves, and a client for it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from asking import NOW, Api, Start, configured
from talking import Connect, Socket, connected

from marketd.clock import ManualClock
from marketd.daemon import Daemon


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(NOW)


@pytest.fixture
async def start(tmp_path: Path, clock: ManualClock) -> AsyncIterator[Start]:
    """Starts the daemon, with other sections of its configuration if wanted."""
    started: list[Daemon] = []

    async def one(**sections: Any) -> Daemon:
        daemon = Daemon(configured(tmp_path, **sections), clock=clock)
        await daemon.start()
        started.append(daemon)
        return daemon

    yield one
    for daemon in started:
        await daemon.stop()


@pytest.fixture
async def daemon(start: Start) -> Daemon:
    return await start()


@pytest.fixture
async def api(daemon: Daemon) -> AsyncIterator[Api]:
    async with aiohttp.ClientSession(daemon.url) as session:
        yield Api(session)


@pytest.fixture
async def connect(daemon: Daemon) -> AsyncIterator[Connect]:
    async with aiohttp.ClientSession(daemon.url) as session:
        yield lambda **options: connected(session, **options)


@pytest.fixture
async def socket(connect: Connect) -> Socket:
    return await connect()
