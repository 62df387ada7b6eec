"""What clients notice of a full backfill: the time of live bars and of warm answers.

In every round the same clients are measured three times, in turn: with nothing else to do, beside a
stranger's process that takes as much of the machine as the backfill and its exchange do, and under the
backfill. What a round's backfill adds is told against the same round's idle time, so that what else the
machine does meets both alike; what the stranger adds is the machine's doing, not the daemon's.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from statistics import median, quantiles
from typing import NamedTuple

import aiohttp

from bench.customer import LIVE, YEAR
from bench.exchange import PAGE, YEAR_BARS
from bench.process import Server
from bench.report import Row
from bench.series import FIRST_MS, MINUTE_MS
from marketd.client import MarketdClient

_MOST = 1.5
_ASK_EVERY_S = 0.005
_BURST_S = 0.005


def rows(scratch: Path, quick: bool) -> Iterator[Row]:
    rounds, seconds = (3, 1.0) if quick else (9, 4.0)
    with Server("bench.exchange", "0") as exchange:
        url = f"http://{exchange.host}:{exchange.port}"
        with Server("bench.customer", scratch / "felt.db", url, "0") as marketd:
            felt = asyncio.run(_measured(marketd, exchange, rounds, seconds))
    for what, name in (("live delivery", "live_ms"), ("warm 1,000 bars", "warm_ms")):
        idle, stranger, busy = (
            [getattr(one, name) for one in times] for times in (felt.idle, felt.stranger, felt.busy)
        )
        yield _row(f"{what}, p99, under a backfill", busy, idle, is_promised=True)
        yield _row("  beside a stranger's process instead", stranger, idle, is_promised=False)
    told = f"{felt.bars_per_s:,.0f} bars/s, {felt.share:.1%} of a core"
    yield Row("  the backfill meanwhile", told, "", "", "", "", None)


class _Times(NamedTuple):
    """What 99 of 100 live bars and answers took at the most."""

    live_ms: float
    warm_ms: float


@dataclass(slots=True)
class _Felt:
    """The times of each round; and the backfill's pace, and what it took of the machine."""

    idle: list[_Times] = field(default_factory=list)
    stranger: list[_Times] = field(default_factory=list)
    busy: list[_Times] = field(default_factory=list)
    bars_per_s: float = 0.0
    share: float = 0.0


def _row(work: str, times: list[float], idle: list[float], *, is_promised: bool) -> Row:
    ratio = median(one / other for one, other in zip(times, idle, strict=True))
    return Row(
        work,
        f"{median(times):.2f} ms",
        "idle, same round",
        f"{median(idle):.2f} ms",
        f"{ratio:.2f}x",
        f"<= {_MOST}x" if is_promised else "",
        ratio <= _MOST if is_promised else None,
    )


async def _measured(marketd: Server, exchange: Server, rounds: int, seconds: float) -> _Felt:
    felt = _Felt()
    async with AsyncExitStack() as stack:
        url = f"http://{marketd.host}:{marketd.port}"
        client = await stack.enter_async_context(MarketdClient(url))
        session = await stack.enter_async_context(aiohttp.ClientSession(url))
        stream = await stack.enter_async_context(session.ws_connect("/api/v1/stream"))
        clients = _Clients(session, stream)
        await clients.subscribe()

        def spent_s() -> float:
            return marketd.cpu_seconds() + exchange.cpu_seconds()

        # The last page is left out: it is what the clients ask for.
        backfill = await client.begin_backfill(
            *("crypto", "customer", YEAR, "1m"),
            since=FIRST_MS + PAGE * MINUTE_MS,
            before=FIRST_MS + YEAR_BARS * MINUTE_MS,
        )
        await client.pause_backfill(backfill.id)
        await clients.measure(2.0)
        idle_s = busy_s = 0.0
        bars = 0
        for number in range(rounds):
            begun_s = spent_s()
            felt.idle.append(await clients.measure(seconds))
            idle_s += spent_s() - begun_s
            await client.resume_backfill(backfill.id)
            await clients.measure(seconds / 4)
            begun_s = spent_s()
            felt.busy.append(await clients.measure(seconds))
            busy_s += spent_s() - begun_s
            paused = await client.pause_backfill(backfill.id)
            bars += paused.bars
            felt.share = max(0.0, busy_s - idle_s) / (seconds * (number + 1))
            with _Stranger(felt.share):
                await clients.measure(seconds / 4)
                felt.stranger.append(await clients.measure(seconds))
        felt.bars_per_s = bars / (rounds * seconds * 1.25)
    return felt


class _Clients:
    """One that follows live bars, and one that asks 200 times a second for what is warm."""

    def __init__(self, session: aiohttp.ClientSession, stream: aiohttp.ClientWebSocketResponse) -> None:
        self._session = session
        self._stream = stream
        self._query = {"market": "crypto", "provider": "customer", "symbol": YEAR, "timeframe": "1m"}
        self._query |= {"since": str(FIRST_MS), "limit": str(PAGE)}

    async def subscribe(self) -> None:
        names = {"market": "crypto", "provider": "customer", "symbols": LIVE, "timeframe": "1s"}
        await self._stream.send_json({"type": "subscribe", "channel": "bars"} | names)

    async def measure(self, seconds: float) -> _Times:
        """What both felt for so long."""
        end_s = time.monotonic() + seconds
        live: list[float] = []
        warm: list[float] = []

        async def listen() -> None:
            while time.monotonic() < end_s:
                message = await self._stream.receive_json()
                if message["type"] == "bar":
                    live.append(time.monotonic() - message["bar"][5])

        async def ask() -> None:
            for number in count():
                due_s = end_s - seconds + number * _ASK_EVERY_S
                if due_s > end_s:
                    return
                await asyncio.sleep(due_s - time.monotonic())
                started_s = time.monotonic()
                async with self._session.get("/api/v1/ohlcv", params=self._query) as response:
                    await response.read()
                warm.append(time.monotonic() - started_s)

        await asyncio.gather(listen(), ask())
        return _Times(_p99_ms(live), _p99_ms(warm))


class _Stranger:
    """A process that takes so much of a core, in bursts as long as a piece of a backfill is."""

    def __init__(self, share: float) -> None:
        self._process = multiprocessing.get_context("spawn").Process(target=_burn, args=(share,))

    def __enter__(self) -> None:
        self._process.start()

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.join()


def _burn(share: float) -> None:
    while share > 0:
        end_s = time.process_time() + _BURST_S
        while time.process_time() < end_s:
            pass
        time.sleep(_BURST_S * (1 / share - 1))


def _p99_ms(times: list[float]) -> float:
    return 1_000 * quantiles(times, n=100)[98]
