"""A real daemon in this process, and behind it a vendor that may turn hostile."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from besieged import DAY_MS, MINUTE, NOW, START, Make, World
from stand_in import Vendor

from marketd.clock import ManualClock
from marketd.config import (
    Config,
    HistoryConfig,
    ProviderConfig,
    ServerConfig,
    StorageConfig,
    UpstreamConfig,
)
from marketd.config.settings import Millis
from marketd.domain.bar import Bar
from marketd.plugins import PluginContext
from marketd.plugins.sim.plugin import SimPlugin

IMPATIENT = UpstreamConfig(timeout=Millis(250), retries=2)


@pytest.fixture
async def simulated() -> Sequence[Bar]:
    """Ten hours of the simulated exchange, to the minute that forms."""
    plugin = SimPlugin(PluginContext("sim", ManualClock(NOW), {"seed": 1}, {}))
    await plugin.open()
    return await plugin.fetch_ohlcv("BTC/USD", MINUTE, START, NOW, 1_000, {})


@pytest.fixture
async def make(tmp_path: Path, simulated: Sequence[Bar]) -> AsyncIterator[Make]:
    """Makes the world, with other bars or settings if wanted."""
    made: list[World] = []
    vendors: list[Vendor] = []

    async def one(
        bars: Sequence[Bar] = simulated,
        *,
        now_ms: int = NOW,
        request_timeout: int = 3_000,
        settings: dict[str, Any] | None = None,
        database: str = "",
        upstream: UpstreamConfig = IMPATIENT,
        **sections: Any,
    ) -> World:
        clock = ManualClock(now_ms)
        vendor = Vendor(bars, clock)
        await vendor.start()
        vendors.append(vendor)
        config = Config(
            server=ServerConfig(port=0, request_timeout=request_timeout),  # type: ignore[arg-type]
            storage=StorageConfig(url=database or f"sqlite:///{tmp_path / 'marketd.db'}"),
            upstream=upstream,
            history=HistoryConfig(depth=DAY_MS),  # type: ignore[arg-type]
            providers={
                "vendor": ProviderConfig("vendor", "stand_in", {"url": vendor.url} | (settings or {}))
            },
            **sections,
        )
        world = World(vendor, config, clock)
        await world.start()
        made.append(world)
        return world

    yield one
    for world in made:
        await world.stop()
    for vendor in vendors:
        await vendor.stop()


@pytest.fixture
async def world(make: Make) -> World:
    return await make()
