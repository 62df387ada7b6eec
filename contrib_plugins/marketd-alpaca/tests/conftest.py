"""Alpaca on a clock that stands still, and providers that ask it."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from alpaca_standin import KEY, NOW, SECRET, Alpaca, Opened
from marketd_alpaca.plugin import AlpacaPlugin
from marketd_alpaca.settings import AlpacaCredentials, AlpacaSettings

from marketd.clock import ManualClock
from marketd.plugins import PluginContext, RateLimit

ROOT = Path(__file__).resolve().parents[3]


@pytest.fixture
def recordings() -> Path:
    """The folder of recorded answers; where it is absent, the test is reported as not run."""
    folder = Path(os.environ.get("MARKETD_RECORDINGS", ROOT.parent / "shared" / "data")) / "recordings"
    if not folder.is_dir():
        pytest.skip(f"no real recordings at {folder}: set MARKETD_RECORDINGS")
    return folder


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(NOW)


@pytest.fixture
async def alpaca(clock: ManualClock) -> AsyncIterator[Alpaca]:
    async with Alpaca(clock).serving() as alpaca:
        yield alpaca


@pytest.fixture
def opened(alpaca: Alpaca, clock: ManualClock) -> Opened:
    @asynccontextmanager
    async def opened(key: str = KEY, **settings: Any) -> AsyncIterator[AlpacaPlugin]:
        loaded = AlpacaSettings().load({"base_url": alpaca.url, **settings})
        credentials = AlpacaCredentials().load({"key": key, "secret": SECRET})
        plugin = AlpacaPlugin(PluginContext("x", clock, loaded, credentials))
        plugin.rate_limit = RateLimit(1_000_000, 1_000)
        try:
            await plugin.open()
            yield plugin
        finally:
            await plugin.close()

    return opened
