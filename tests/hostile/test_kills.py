"""kill -9 in the middle of a backfill: nothing is lost, and hardly anything is asked for twice."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from besieged import SERIES, START, M
from killing import Doomed, doomed_node
from stand_in import SYMBOL, Vendor, slow
from stand_in_plugin import StandInPlugin

from marketd.clock import ManualClock
from marketd.domain.coverage import Covered, Reason
from marketd.domain.timerange import TimeRange
from marketd.storage.sqlite import SQLiteStorage

KILLS = 10
PAGES = 100
SPAN = TimeRange(START, START + PAGES * StandInPlugin.page_limit * M)
LATENCY_S = 0.02
MOST_AT_ONCE = StandInPlugin.concurrency - 1


@pytest.fixture
async def vendor() -> AsyncIterator[Vendor]:
    bars = [(t, 1.0, 2.0, 0.5, 1.5, t / M) for t in range(*SPAN, M)]
    vendor = Vendor(bars, ManualClock(SPAN.end_ms))
    vendor.mood = slow(LATENCY_S)
    await vendor.start()
    yield vendor
    await vendor.stop()


async def test_a_backfill_killed_ten_times_ends_as_if_it_had_not_been(
    vendor: Vendor, tmp_path: Path
) -> None:
    database = tmp_path / "marketd.db"
    async with doomed_node(f"sqlite:///{database}", vendor.url) as doomed:
        await doomed.start()
        await filled_though_it_is_killed(doomed, vendor)
    storage = SQLiteStorage(database)
    await storage.open()
    bars, coverage = await storage.read(SERIES, SPAN, limit=len(vendor.bars) + 1)
    await storage.close()
    assert bars == vendor.bars
    assert coverage == [Covered(*SPAN, Reason.DATA)]
    assert PAGES < len(vendor.asked) <= PAGES + KILLS * MOST_AT_ONCE


async def filled_though_it_is_killed(doomed: Doomed, vendor: Vendor) -> None:
    chance = random.Random(1)  # noqa: S311 - when to kill is no secret
    wanted = {"market": "crypto", "provider": "vendor", "symbol": SYMBOL, "timeframe": "1m"}
    wanted |= {"since": str(SPAN.start_ms), "before": str(SPAN.end_ms)}
    async with (
        aiohttp.ClientSession() as client,
        client.post(f"{doomed.url}/api/v1/backfills", json=wanted) as response,
    ):
        told = await response.json()
        assert response.status == 201, told
    for _ in range(KILLS):
        enough = len(vendor.asked) + chance.randint(1, 12)
        while len(vendor.asked) < enough:  # noqa: ASYNC110 - a list has no event
            await asyncio.sleep(0.001)
        # While it waits for answers, or stores them.
        await asyncio.sleep(chance.uniform(0, 2 * LATENCY_S))
        await doomed.kill()
        await doomed.start()
    async with asyncio.timeout(60), aiohttp.ClientSession() as client:
        while told["state"] != "done":
            await asyncio.sleep(0.05)
            async with client.get(f"{doomed.url}/api/v1/backfills/{told['id']}") as response:
                told = await response.json()
