"""What the route says is what a daemon has stored."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from marketd.clock import ManualClock
from marketd.config import Config, ProviderConfig, ServerConfig, StorageConfig
from marketd.daemon import Daemon

NOW, M = 1_709_647_230_000, 60_000  # 2024-03-05T14:00:30Z
BARS = {"market": "crypto", "provider": "sim", "symbol": "BTC/USD", "timeframe": "1m"}


@pytest.fixture
async def session(tmp_path: Path) -> AsyncIterator[aiohttp.ClientSession]:
    entries = [
        EntryPoint("sim", "marketd.plugins.sim", "marketd"),
        EntryPoint("freshness", "marketd_freshness", "marketd"),
    ]
    config = Config(
        server=ServerConfig(port=0),
        storage=StorageConfig(url=f"sqlite:///{tmp_path / 'marketd.db'}"),
        providers={"sim": ProviderConfig("sim", "sim", {"seed": 1})},
    )
    daemon = Daemon(config, clock=ManualClock(NOW), found=lambda: entries)
    await daemon.start()
    async with aiohttp.ClientSession(daemon.url) as session:
        yield session
    await daemon.stop()


async def ask(session: aiohttp.ClientSession, path: str, **query: Any) -> Any:
    async with session.get(f"/api/v1/{path}", params=query) as response:
        return response.status, await response.json()


async def test_a_series_is_there_once_it_was_stored(session: aiohttp.ClientSession) -> None:
    assert await ask(session, "plugins/freshness/series") == (200, {"series": []})
    await ask(session, "ohlcv", **BARS, since=NOW - 10 * M, before=NOW - 2 * M)
    async with asyncio.timeout(30):
        while not (found := (await ask(session, "plugins/freshness/series"))[1]["series"]):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    (seen,) = found
    assert seen.pop("stored") > 0
    assert NOW - 3 * M <= seen.pop("reaches") <= NOW
    assert seen == BARS
    assert await ask(session, "plugins/freshness/series", provider="x") == (200, {"series": []})


async def test_a_key_that_it_does_not_know_is_refused(session: aiohttp.ClientSession) -> None:
    status, problem = await ask(session, "plugins/freshness/series", x="1")
    assert (status, problem["field"]) == (400, "x")
