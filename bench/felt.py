"""What clients notice of a full backfill: the time of live bars and of warm answers.

There are many clients, beside whom a backfill goes slowly, or few, beside whom it goes faster. In every
round they are measured three times, in turn: with nothing else to do, under the backfill, and beside a
stranger's process that takes as much of the machine as the backfill and its exchange do. What the
backfill adds is told against the same round's idle time, so that what else the machine does meets both
alike; what the stranger adds is the machine's doing, not the daemon's.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from multiprocessing.synchronize import Event
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
_BURST_S = 0.005
_LEAST_SHARE = 0.001
_START_S = 30.0


class _Crowd(NamedTuple):
    """Some clients: whether they follow live bars, and how often they ask."""

    follows: bool
    every_s: float


def rows(scratch: Path, quick: bool) -> Iterator[Row]:
    # All rounds together take less time than the backfill does.
    rounds, seconds = (3, 1.0) if quick else (5, 2.0)
    with Server("bench.exchange", "0") as exchange:
        url = f"http://{exchange.host}:{exchange.port}"
        # Of few answers it takes longer to tell which is one in a hundred.
        for name, crowd, each_s in (
            ("many", _Crowd(True, 0.005), seconds),
            ("few", _Crowd(False, 0.025), 2 * seconds),
        ):
            with Server("bench.customer", scratch / f"{name}.db", url, "0") as marketd:
                felt = asyncio.run(_measured(marketd, exchange, crowd, rounds, each_s))
            if crowd.follows:
                yield from _told("live delivery, p99, under a backfill", felt, "live_ms")
            yield from _told(f"warm, {1 / crowd.every_s:.0f} a second, p99, likewise", felt, "warm_ms")
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


def _told(work: str, felt: _Felt, name: str) -> Iterator[Row]:
    idle, busy, stranger = (
        [getattr(one, name) for one in times] for times in (felt.idle, felt.busy, felt.stranger)
    )
    for what, times, most in ((work, busy, _MOST), ("  beside a stranger instead", stranger, None)):
        ratio = median(one / other for one, other in zip(times, idle, strict=True))
        yield Row(
            what,
            f"{median(times):.2f} ms",
            "idle, same round",
            f"{median(idle):.2f} ms",
            f"{ratio:.2f}x",
            f"<= {most}x" if most else "",
            ratio <= most if most else None,
        )


async def _measured(
    marketd: Server, exchange: Server, crowd: _Crowd, rounds: int, seconds: float
) -> _Felt:
    felt = _Felt()
    async with AsyncExitStack() as stack:
        url = f"http://{marketd.host}:{marketd.port}"
        client = await stack.enter_async_context(MarketdClient(url))
        session = await stack.enter_async_context(aiohttp.ClientSession(url))
        stream = await stack.enter_async_context(session.ws_connect("/api/v1/stream"))
        clients = _Clients(session, stream, crowd)
        if crowd.follows:
            names = {"market": "crypto", "provider": "customer", "symbols": LIVE, "timeframe": "1s"}
            await stream.send_json({"type": "subscribe", "channel": "bars"} | names)

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
    """One that follows live bars, if they do, and one that asks for what is warm."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        stream: aiohttp.ClientWebSocketResponse,
        crowd: _Crowd,
    ) -> None:
        self._session = session
        self._stream = stream
        self._crowd = crowd
        self._query = {"market": "crypto", "provider": "customer", "symbol": YEAR, "timeframe": "1m"}
        self._query |= {"since": str(FIRST_MS), "limit": str(PAGE)}

    async def measure(self, seconds: float) -> _Times:
        """What they felt for so long."""
        end_s = time.monotonic() + seconds
        live_s, warm_s = await asyncio.gather(self._listen(end_s), self._ask(end_s - seconds, end_s))
        return _Times(_p99_ms(live_s) if live_s else 0.0, _p99_ms(warm_s))

    async def _listen(self, end_s: float) -> list[float]:
        took_s: list[float] = []
        while self._crowd.follows and time.monotonic() < end_s:
            message = await self._stream.receive_json()
            if message["type"] == "bar":
                took_s.append(time.monotonic() - message["bar"][5])
        return took_s

    async def _ask(self, due_s: float, end_s: float) -> list[float]:
        took_s: list[float] = []
        while due_s < end_s:
            await asyncio.sleep(due_s - time.monotonic())
            started_s = time.monotonic()
            async with self._session.get("/api/v1/ohlcv", params=self._query) as response:
                await response.read()
            took_s.append(time.monotonic() - started_s)
            due_s += self._crowd.every_s
        return took_s


class _Stranger:
    """A process that takes so much of a core, in bursts as long as a piece of a backfill is."""

    def __init__(self, share: float) -> None:
        context = multiprocessing.get_context("spawn")
        self._burns = context.Event()
        self._process = context.Process(target=_burn, args=(share, self._burns))

    def __enter__(self) -> None:
        self._process.start()
        if not self._burns.wait(_START_S):
            raise TimeoutError("The stranger's process has not started.")

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.join()


def _burn(share: float, burns: Event) -> None:
    """Computes for `share` of the time, in short bursts, and sleeps for the rest of it."""
    burns.set()
    share = max(share, _LEAST_SHARE)
    while True:
        end_s = time.process_time() + _BURST_S
        while time.process_time() < end_s:
            pass
        time.sleep(max(0.0, _BURST_S * (1 / share - 1)))


def _p99_ms(times: list[float]) -> float:
    return 1_000 * quantiles(times, n=100)[98]
