"""A disk that is full, as far as the real process can tell: its files may not grow."""

from __future__ import annotations

import asyncio
import resource
from collections.abc import Callable
from typing import Any

import aiohttp

SIM = '[providers.sim]\nplugin = "sim"\nseed = 1\n'
BTC = {"market": "crypto", "provider": "sim", "symbol": "BTC/USD", "timeframe": "1m"}
LONG_S = 60


async def answer(url: str, **query: Any) -> tuple[int, dict[str, Any]]:
    async with aiohttp.ClientSession() as session, session.get(url, params=query) as response:
        return response.status, await response.json()


async def test_a_full_disk_is_told_reading_goes_on_and_writing_resumes_by_itself(
    launch: Callable[..., Any],
) -> None:
    daemon = await launch(SIM)
    ohlcv, readyz = f"{daemon.url}/api/v1/ohlcv", f"{daemon.url}/readyz"
    stored = BTC | {"since": "2024-01-02T00:00:00Z", "before": "2024-01-03T00:00:00Z", "limit": 2000}
    other = stored | {"since": "2024-02-02T00:00:00Z", "before": "2024-02-03T00:00:00Z"}
    status, page = await answer(ohlcv, **stored)
    assert (status, len(page["bars"])) == (200, 1440)

    daemon.limit_files(1)
    status, problem = await answer(ohlcv, **other)
    assert (status, problem["code"]) == (503, "storage_failed")
    status, state = await answer(readyz)
    assert (status, state["status"]) == (503, "not_ready")
    assert "cannot be written" in state["message"]
    # Asked in other words, so that no answer that is kept ready comes back.
    for timeframe, limit in (("1m", 1999), ("1h", 24), ("4h", 6)):
        status, found = await answer(ohlcv, **stored | {"timeframe": timeframe, "limit": limit})
        assert (status, found["complete"]) == (200, True)
    span = {key: stored[key] for key in (*BTC, "since", "before")}
    assert (await answer(f"{daemon.url}/api/v1/gaps", **span))[1] == {"gaps": []}

    daemon.limit_files(resource.RLIM_INFINITY)
    async with asyncio.timeout(LONG_S):
        while (await answer(readyz))[0] != 200:  # noqa: ASYNC110 - another process has no event
            await asyncio.sleep(0.05)
    assert (await answer(readyz))[1]["message"] == ""
    assert await daemon.metric("marketd_storage_faults_total") == 1
    async with asyncio.timeout(LONG_S):
        while not await daemon.metric("marketd_storage_fault_seconds_total"):  # noqa: ASYNC110 - as above
            await asyncio.sleep(0.05)
    assert len((await answer(ohlcv, **other))[1]["bars"]) == 1440
    assert (await answer(ohlcv, **stored))[1] == page
