"""From a provider's word to its clients, in milliseconds, by the one clock of the machine.

The provider says something of each symbol ten times a second, and every tenth word is a closed bar,
which is stored durably before it is told. To 1,000 clients of one symbol, against a bare loop of
`send_str` that says as much and stores nothing. And to 100 clients of twenty symbols while 100 others
take nothing at all, against the same without these: what those cost their peers, when they are cut with
the default settings, and how much memory they hold until then.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import orjson

from bench.crowd import Crowd, Delays
from bench.customer import DEEP, LIVE, NO_EXCHANGE
from bench.load import deaf
from bench.process import Server
from bench.report import Row, slower, versus, within
from bench.series import MINUTE_MS

_CLIENTS, _READERS, _STALLED = 1_000, 100, 100
_WEEK_MS = 7 * 24 * 60 * MINUTE_MS
# The default of `stream.outbox`.
_OUTBOX_MB = 1.0
_CUT_S = 10.0
# How long the stalled are there with the default `stream.patience`.
_BESIDE_S = 6.0
_LOOK_S = 0.05
_SUBSCRIBE = {"type": "subscribe", "market": "crypto", "provider": "customer"}


def rows(scratch: Path, quick: bool) -> Iterator[Row]:
    rounds, seconds = (2, 3.0) if quick else (5, 4.0)
    with (
        Server("bench.customer", scratch / "many.db", *NO_EXCHANGE) as marketd,
        Server("bench.peers", "ticks", scratch) as bare,
    ):
        yield from _to_many(marketd, bare, rounds, seconds)
    with Server("bench.customer", scratch / "stalled.db", *NO_EXCHANGE) as marketd:
        yield from _beside_stalled(marketd, rounds, seconds)


def _to_many(marketd: Server, bare: Server, rounds: int, seconds: float) -> Iterator[Row]:
    subscribe = orjson.dumps(_SUBSCRIBE | {"symbols": LIVE[:1], "timeframe": "1s"})

    def heard(server: Server, say: bytes | None) -> Delays:
        with Crowd(server) as crowd:
            crowd.join(_CLIENTS, say)
            return crowd.hear(seconds)

    measured = [(heard(marketd, subscribe), heard(bare, None)) for _ in range(rounds)]
    for part, at_most in (("p50", 1.5), ("p99", 2.0)):
        compared = versus([(getattr(mine, part), getattr(other, part)) for mine, other in measured])
        work = f"event to client, 1,000 clients, {part}"
        yield slower(work, "aiohttp send_str loop", compared, "ms", at_most)


def _beside_stalled(marketd: Server, rounds: int, seconds: float) -> Iterator[Row]:
    subscribe = orjson.dumps(_SUBSCRIBE | {"symbols": LIVE, "timeframe": "1s"})
    measured: list[tuple[float, float]] = []
    cut_s: list[float] = []
    growth_mb: list[float] = []
    with Crowd(marketd) as readers:
        readers.join(_READERS, subscribe)
        # The first of each brings what all have in common.
        _stall(marketd, readers)
        for _ in range(rounds):
            before = readers.hear(seconds).p99
            stalled = _stall(marketd, readers)
            measured.append((stalled.p99, before))
            cut_s.append(stalled.cut_s)
            growth_mb.append(stalled.growth_mb)
    work = f"p99 beside {_STALLED} stalled clients"
    yield slower(work, "without these, same round", versus(measured), "ms", 1.2)
    yield within("  the stalled are cut after", max(cut_s), _CUT_S, "s")
    yield within("  memory that they hold until then", max(growth_mb), _STALLED * _OUTBOX_MB, "MB")


class _Stalled(NamedTuple):
    """What readers noticed, when the last of those who do not read was cut, and what they have held."""

    p99: float
    cut_s: float
    growth_mb: float


def _stall(marketd: Server, readers: Crowd) -> _Stalled:
    # Each asks for more than the kernels and one page of history hold.
    since = int(time.time() * 1000) - _WEEK_MS
    says = orjson.dumps(_SUBSCRIBE | {"symbols": [DEEP], "timeframe": "1m", "since": since})
    # A look at the server's files costs it nothing, as one at its metrics would.
    files, resident = marketd.open_files(), marketd.resident_bytes()
    started_s = time.monotonic()
    stalled = [deaf(marketd, says) for _ in range(_STALLED)]
    while marketd.open_files() < files + _STALLED:
        time.sleep(_LOOK_S)
    most_resident = resident
    with ThreadPoolExecutor(1) as pool:
        hearing = pool.submit(readers.hear, _BESIDE_S)
        while marketd.open_files() > files:
            if time.monotonic() > started_s + 3 * _CUT_S:
                raise TimeoutError("Clients that take nothing were not cut.")
            most_resident = max(most_resident, marketd.resident_bytes())
            time.sleep(_LOOK_S)
    cut_s = time.monotonic() - started_s
    for client in stalled:
        client.close()
    return _Stalled(hearing.result().p99, cut_s, (most_resident - resident) / 1e6)
