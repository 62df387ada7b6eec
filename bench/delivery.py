"""From a provider's word to its clients, in milliseconds, by the one clock of the machine.

The provider says something of each symbol ten times a second, and every tenth word is a closed bar,
which is stored durably before it is told. To 1,000 clients of one symbol, against a bare loop of
`send_str` that says as much and stores nothing. And to 100 clients of twenty symbols while 100 others
take nothing at all, against a second daemon without these at the same time, each in turn: what they cost
their peers, when they are cut with the default settings, and how much memory they hold until then.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

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
# When all of the stalled have been let in, and how long after that they are cut with the default
# `stream.patience`.
_SETTLED_S, _BESIDE_S = 1.0, 7.5
_LOOK_S = 0.05
_SUBSCRIBE = {"type": "subscribe", "market": "crypto", "provider": "customer"}


def rows(scratch: Path, quick: bool) -> Iterator[Row]:
    rounds, seconds = (1, 3.0) if quick else (4, 4.0)
    with (
        Server("bench.customer", scratch / "many.db", *NO_EXCHANGE) as marketd,
        Server("bench.peers", "ticks", scratch) as bare,
    ):
        yield from _to_many(marketd, bare, rounds, seconds)
    with (
        Server("bench.customer", scratch / "one.db", *NO_EXCHANGE) as one,
        Server("bench.customer", scratch / "other.db", *NO_EXCHANGE) as other,
    ):
        yield from _beside_stalled([one, other], 2 * rounds)


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


def _beside_stalled(servers: Sequence[Server], rounds: int) -> Iterator[Row]:
    subscribe = orjson.dumps(_SUBSCRIBE | {"symbols": LIVE, "timeframe": "1s"})
    p99s: list[tuple[float, float]] = []
    cut_s: list[float] = []
    held_mb: list[float] = []
    with ExitStack() as stack:
        crowds = [stack.enter_context(Crowd(server)) for server in servers]
        for crowd in crowds:
            crowd.join(_READERS, subscribe)
        pool = stack.enter_context(ThreadPoolExecutor(len(crowds)))
        # The first stalled clients of each server bring what all have in common.
        for number in range(-len(servers), rounds):
            one, other = (number % 2, 1 - number % 2)
            stalled = _Stalled(servers[one])
            hearing = [pool.submit(crowds[which].hear, _BESIDE_S) for which in (one, other)]
            stalled.watch()
            beside, without = (delays.result().p99 for delays in hearing)
            if number >= 0:
                p99s.append((beside, without))
                cut_s.append(stalled.cut_s)
                held_mb.append(stalled.held_mb)
    work = f"p99 beside {_STALLED} stalled clients"
    yield slower(work, "a daemon without, same time", versus(p99s), "ms", 1.2)
    yield within("  the stalled are cut after", max(cut_s), _CUT_S, "s")
    yield within("  memory that they hold until then", max(held_mb), _STALLED * _OUTBOX_MB, "MB")


class _Stalled:
    """Clients that take nothing, until they are cut.

    The server's files tell: a look at them costs it nothing, as one at its metrics would.
    """

    def __init__(self, server: Server) -> None:
        # Each asks for more than the kernels and one page of history hold.
        since = int(time.time() * 1000) - _WEEK_MS
        says = orjson.dumps(_SUBSCRIBE | {"symbols": [DEEP], "timeframe": "1m", "since": since})
        self._server = server
        self._files, self._resident = server.open_files(), server.resident_bytes()
        self._started_s = time.monotonic()
        self._clients = [deaf(server, says) for _ in range(_STALLED)]
        while server.open_files() < self._files + _STALLED:
            if time.monotonic() - self._started_s > _CUT_S:
                raise TimeoutError("Clients that take nothing were not let in.")
            time.sleep(_LOOK_S)
        time.sleep(_SETTLED_S)
        self.cut_s = self.held_mb = 0.0

    def watch(self) -> None:
        """Returns when all are cut, and knows then how long that took, and how much memory they held."""
        while self._server.open_files() > self._files:
            self.cut_s = time.monotonic() - self._started_s
            if self.cut_s > 3 * _CUT_S:
                raise TimeoutError("Clients that take nothing were not cut.")
            held = self._server.resident_bytes() - self._resident
            self.held_mb = max(self.held_mb, held / 1e6)
            time.sleep(_LOOK_S)
        for client in self._clients:
            client.close()
