"""Exchanges on a clock that stands still, and where the real recordings are."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from binance_standin import Binance
from kraken_standin import Kraken
from standin import NOW, Exchange

from marketd.clock import ManualClock

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


@pytest.fixture(params=[Binance, Kraken])
async def exchange(request: pytest.FixtureRequest, clock: ManualClock) -> AsyncIterator[Exchange]:
    async with request.param(clock).serving() as exchange:
        yield exchange


@pytest.fixture
async def binance(clock: ManualClock) -> AsyncIterator[Exchange]:
    async with Binance(clock).serving() as exchange:
        yield exchange


@pytest.fixture
async def kraken(clock: ManualClock) -> AsyncIterator[Exchange]:
    async with Kraken(clock).serving() as exchange:
        yield exchange
