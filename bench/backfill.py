"""A year of minutes fetched from a local exchange that takes 20 ms for each 1,000 of them.

With an allowance of 50 requests a second: how much of it is used, whether anything is asked twice or
more than is allowed, and whether memory grows. Without one: bars a second, durably into SQLite. And
what clients notice of that: the time of live bars and of warm answers meanwhile, against just before.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from statistics import quantiles
from typing import NamedTuple

import aiohttp
import orjson

from bench.customer import BURST, LIVE, YEAR
from bench.exchange import END_MS, PAGE
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
    with Server("bench.exchange") as exchange:
        url = f"http://{exchange.host}:{exchange.port}"
        with Server("bench.customer", scratch / "limited.db", url, str(_ALLOWED)) as marketd:
            filled = asyncio.run(_fill(marketd, bars))
            asked = _asked(exchange)
        yield from _limited(filled, asked)
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
        with Server("bench.customer", scratch / "felt.db", url, "0") as marketd:
            idle, busy, rate = asyncio.run(_felt(marketd, 3.0 if quick else 8.0))
        for what, before_ms, then_ms in (
            ("live delivery, p99, under a backfill", idle.live_ms, busy.live_ms),
            ("warm 1,000 bars, p99, under a backfill", idle.warm_ms, busy.warm_ms),
        ):
            ratio = then_ms / before_ms
            yield Row(
                what,
                f"{then_ms:.2f} ms",
                "the same before it",
                f"{before_ms:.2f} ms",
                f"{ratio:.2f}x",
                "<= 1.5x",
                ratio <= 1.5,
            )
        yield Row("  the backfill meanwhile", f"{rate:,.0f} bars/s", "", "", "", "", None)


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


def _asked(exchange: Server) -> list[tuple[float, int]]:
    """When each request came, and from where on it asked."""
    asked: list[tuple[float, int]] = orjson.loads(get(exchange, "/asked"))
    return asked


def _limited(filled: _Filled, asked: list[tuple[float, int]]) -> Iterator[Row]:
    times = [at_s for at_s, _ in asked]
    rate = (len(times) - 1) / (times[-1] - times[0])
    yield Row(
        "backfill of a year of 1m, limited",
        f"{rate:,.1f} req/s",
        "the allowance",
        f"{_ALLOWED} req/s",
        f"{rate / _ALLOWED:.2f}x",
        ">= 0.95x",
        rate >= 0.95 * _ALLOWED,
    )
    repeated = len(asked) - len({since for _, since in asked})
    yield within("  requests made twice", repeated, 1, "requests")
    most = max(sum(begin_s <= at_s < begin_s + 1 for at_s in times) for begin_s in times)
    # One may have travelled faster than those before it.
    yield within("  most requests in any second", most, _ALLOWED + BURST + 2, "requests")
    yield within("  growth of resident memory", filled.growth_mb, _MOST_GROWTH_MB, "MB")


class _Felt(NamedTuple):
    """What 99 of 100 live bars and answers took at the most."""

    live_ms: float
    warm_ms: float


async def _felt(marketd: Server, seconds: float) -> tuple[_Felt, _Felt, float]:
    """Before a backfill, and under it; and how many bars a second that brought meanwhile."""
    url = f"http://{marketd.host}:{marketd.port}"
    warm = f"/api/v1/ohlcv?market=crypto&provider=customer&symbol={YEAR}&timeframe=1m"
    warm += f"&since={FIRST_MS}&limit={PAGE}"
    async with (
        MarketdClient(url) as client,
        aiohttp.ClientSession(url) as session,
        session.ws_connect("/api/v1/stream") as stream,
    ):
        subscribe = {"type": "subscribe", "channel": "bars", "market": "crypto"}
        subscribe |= {"provider": "customer", "symbols": LIVE, "timeframe": "1s"}
        await stream.send_json(subscribe)
        for _ in range(3):
            await _measure(session, stream, warm, 1.0)
        idle = await _measure(session, stream, warm, seconds)
        one = await _begin(client, (END_MS - FIRST_MS) // MINUTE_MS - PAGE)
        await _measure(session, stream, warm, 1.0)
        begun = await client.backfill(one.id)
        busy = await _measure(session, stream, warm, seconds)
        one = await client.backfill(one.id)
        if one.state != "running":
            raise RuntimeError(f"The backfill ended too early: {one}")
        return idle, busy, (one.bars - begun.bars) / seconds


async def _measure(
    session: aiohttp.ClientSession,
    stream: aiohttp.ClientWebSocketResponse,
    path: str,
    seconds: float,
) -> _Felt:
    end_s = time.monotonic() + seconds
    live: list[float] = []
    warm: list[float] = []

    async def listen() -> None:
        while time.monotonic() < end_s:
            message = await stream.receive_json()
            if message["type"] == "bar":
                live.append(time.monotonic() - message["bar"][5])

    async def ask() -> None:
        for number in count():
            due_s = end_s - seconds + number * 0.005
            if due_s > end_s:
                return
            await asyncio.sleep(due_s - time.monotonic())
            started_s = time.monotonic()
            async with session.get(path) as response:
                await response.read()
            warm.append(time.monotonic() - started_s)

    await asyncio.gather(listen(), ask())
    return _Felt(_p99_ms(live), _p99_ms(warm))


def _p99_ms(times: list[float]) -> float:
    return 1_000 * quantiles(times, n=100)[98]
