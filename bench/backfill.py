"""A year of minutes fetched from a local exchange that takes 20 ms for each 1,000 of them.

With an allowance of 50 requests a second: how much of it is used, whether anything is asked twice or
more than is allowed, and whether memory grows. Without one: bars a second, durably into SQLite.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from bench.customer import BURST, YEAR
from bench.exchange import BUCKET, END_MS
from bench.load import get
from bench.process import Server
from bench.report import Row, within
from bench.series import FIRST_MS, MINUTE_MS
from marketd.client import Backfill, MarketdClient

_ALLOWED = 50
_SERIES = ("crypto", "customer", YEAR, "1m")
_LOOK_S = 0.2
_SETTLED = 0.3
_MOST_GROWTH_MB = 16.0


def rows(scratch: Path, quick: bool) -> Iterator[Row]:
    bars = 100_000 if quick else (END_MS - FIRST_MS) // MINUTE_MS
    with Server("bench.exchange", str(_ALLOWED)) as exchange:
        url = f"http://{exchange.host}:{exchange.port}"
        with Server("bench.customer", scratch / "limited.db", url, str(_ALLOWED)) as marketd:
            filled = asyncio.run(_fill(marketd, bars))
        yield from _limited(filled, orjson.loads(get(exchange, "/asked")))
    with Server("bench.exchange", "0") as exchange:
        url = f"http://{exchange.host}:{exchange.port}"
        with Server("bench.customer", scratch / "free.db", url, "0") as marketd:
            rate = bars / asyncio.run(_fill(marketd, bars)).seconds
        yield Row(
            "backfill of a year of 1m, no limit",
            f"{rate:,.0f} bars/s",
            "a fixed rate, durable",
            "50,000 bars/s",
            f"{rate / 50_000:.2f}x",
            ">= 1.0x",
            rate >= 50_000,
        )


class _Filled(NamedTuple):
    """How long a backfill took, and how much the daemon's memory grew after it had settled."""

    seconds: float
    growth_mb: float


async def _fill(marketd: Server, bars: int) -> _Filled:
    async with MarketdClient(f"http://{marketd.host}:{marketd.port}") as client:
        started_s = time.perf_counter()
        one = await _begin(client, bars)
        settled_bytes = 0
        while not one.has_ended:
            await asyncio.sleep(_LOOK_S)
            one = await client.backfill(one.id)
            if not settled_bytes and one.progress >= _SETTLED:
                settled_bytes = marketd.resident_bytes()
        seconds = time.perf_counter() - started_s - _LOOK_S / 2
        if (one.state, one.new) != ("done", bars):
            raise RuntimeError(f"The backfill ended otherwise: {one}")
        return _Filled(seconds, (marketd.resident_bytes() - settled_bytes) / 2**20)


async def _begin(client: MarketdClient, bars: int) -> Backfill:
    return await client.begin_backfill(*_SERIES, since=END_MS - bars * MINUTE_MS, before=END_MS)


def _limited(filled: _Filled, told: dict[str, Any]) -> Iterator[Row]:
    sent_s, came_s, since = zip(*told["asked"], strict=True)
    rate = (len(came_s) - 1) / (came_s[-1] - came_s[0])
    yield Row(
        "backfill of a year of 1m, limited",
        f"{rate:,.1f} req/s",
        "the allowance",
        f"{_ALLOWED} req/s",
        f"{rate / _ALLOWED:.2f}x",
        ">= 0.95x",
        rate >= 0.95 * _ALLOWED,
    )
    yield within("  requests made twice", len(since) - len(set(since)), 1, "requests")
    yield within("  most sent in any second", _most(sent_s), _ALLOWED + BURST, "requests")
    yield within(f"  refused where {BUCKET} may come at once", told["refused"], 1, "requests")
    most = f"{_most(came_s)} requests"
    yield Row("  most that came in any second", most, "", "", "", "", None)
    yield within("  growth of resident memory", filled.growth_mb, _MOST_GROWTH_MB, "MB")


def _most(times: Sequence[float]) -> int:
    """How many there are at the most within a second."""
    return max(sum(begin_s <= at_s < begin_s + 1 for at_s in times) for begin_s in times)
