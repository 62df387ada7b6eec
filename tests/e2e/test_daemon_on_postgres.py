"""`marketd serve` on PostgreSQL: first answers, live bars, and a server that stops and comes back."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

import asyncpg
from servers import postgres
from test_daemon import BTC, SIM, hear, hear_closed, say, stream
from test_full_disk import answer

PAST = BTC | {"timeframe": "1h", "since": "2024-01-02T00:00:00Z", "before": "2024-01-05T00:00:00Z"}
LONG_S = 60


async def until(url: str, status: int) -> dict[str, Any]:
    """What `url` answers, once that is with `status`."""
    async with asyncio.timeout(LONG_S):
        while (found := await answer(url))[0] != status:  # noqa: ASYNC110 - another process has no event
            await asyncio.sleep(0.05)
    return found[1]


async def test_a_server_that_stops_is_told_and_all_resumes_by_itself_without_a_hole(
    launch: Callable[..., Any],
) -> None:
    with postgres.running() as server:
        daemon = await launch(SIM, storage=server.url())
        ohlcv, readyz = f"{daemon.url}/api/v1/ohlcv", f"{daemon.url}/readyz"
        status, page = await answer(ohlcv, **PAST, limit=100)
        assert (status, len(page["bars"]), page["complete"]) == (200, 72, True)

        async with stream(daemon.url) as socket:
            since = time.time_ns() // 1_000_000 - 5_000
            await say(
                socket, type="subscribe", id="1", market="crypto", provider="sim", symbols=["BTC/USD"],
                timeframe="1s", since=since,
            )  # fmt: skip
            seen = (await hear(socket, "snapshot"))["bars"]
            seen += await hear_closed(socket, 2)

            server.stop()
            begun = time.perf_counter()
            # Asked in other words, so that no answer that is kept ready comes back.
            status, problem = await answer(ohlcv, **PAST, limit=99)
            assert (status, problem["code"]) == (503, "storage_failed")
            state = await until(readyz, 503)
            assert time.perf_counter() - begun < 5
            assert "The database cannot be" in state["message"]
            missed_ms = time.time_ns() // 1_000_000

            server.start()
            state = await until(readyz, 200)
            assert state["message"] == ""
            while seen[-1][0] < missed_ms + 1_000:
                seen += await hear_closed(socket, 1)

        database = await asyncpg.connect(server.url())
        stored = await database.fetch(
            "SELECT t, open, high, low, close, volume FROM bar JOIN series ON series.id = bar.series "
            "WHERE timeframe = '1s' AND t >= $1 AND t <= $2 ORDER BY t",
            seen[0][0],
            seen[-1][0],
        )
        await database.close()
        assert [list(bar) for bar in stored] == seen
        assert (await answer(ohlcv, **PAST, limit=99))[1]["bars"] == page["bars"]

        # A second without a trade has no bar: one that was never cut off tells which those are.
        other = await launch(SIM)
        span = {"since": seen[0][0], "before": seen[-1][0] + 1}
        assert (await other.get("/api/v1/ohlcv", **BTC, timeframe="1s", **span))["bars"] == seen
