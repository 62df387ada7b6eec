"""A message to each of 1,000 WebSocket clients, in messages a second, all clients together.

marketd's own way from the broadcast through channels and outboxes to real sockets, against a bare loop
of `send_str` over as many clients with the same text. One message at a time, and in bursts of ten that
are due to each client at once. The clock runs until the clients have all of them. Whatever else the
machine does, the processor time that a message costs the server shows what its way there is.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from statistics import median

from bench.load import Audience
from bench.process import Server
from bench.report import Row, alternate, faster
from bench.stage import SUBSCRIBE, message

_CLIENTS = 1_000
_BURST = 10


def rows(scratch: Path, quick: bool) -> Iterator[Row]:
    rounds, messages = (5, 40) if quick else (25, 40)
    text = scratch / "message"
    text.write_bytes(message())
    with ExitStack() as stack:
        marketd = stack.enter_context(Server("bench.stage", scratch / "marketd.db"))
        bare = stack.enter_context(Server("bench.peers", "sends", text))
        ours = _Fanout(marketd, stack.enter_context(closing(Audience(marketd, _CLIENTS, SUBSCRIBE))))
        theirs = _Fanout(bare, stack.enter_context(closing(Audience(bare, _CLIENTS, None))))
        for manner, size, at_least in (("singly", 1, 1.0), (f"bursts of {_BURST}", _BURST, 3.0)):
            bursts = messages // size
            versus = alternate(
                partial(ours.run, bursts, size), partial(theirs.run, bursts, size), rounds
            )
            work = f"fan-out to 1,000 clients, {manner}"
            yield faster(work, "aiohttp send_str loop", versus, "msg/s", at_least)
            yield _cost(ours.take_cost_us(), theirs.take_cost_us())


def _cost(ours_us: float, peer_us: float) -> Row:
    ratio = f"{ours_us / peer_us:.2f}x"
    return Row(
        "  processor time a message", f"{ours_us:.2f} us", "", f"{peer_us:.2f} us", ratio, "", None
    )


class _Fanout:
    """A server that sends when told to, and its clients."""

    def __init__(self, server: Server, audience: Audience) -> None:
        self._server = server
        self._audience = audience
        server.tell("1 1")
        self._frame_length = audience.first_messages()
        self._costs_us: list[float] = []

    def run(self, bursts: int, size: int) -> float:
        messages = bursts * size * _CLIENTS
        used_s = self._server.cpu_seconds()
        started_s = time.perf_counter()
        self._server.tell(f"{bursts} {size}")
        self._audience.take(messages, self._frame_length)
        took_s = time.perf_counter() - started_s
        self._costs_us.append((self._server.cpu_seconds() - used_s) / messages * 1e6)
        return messages / took_s

    def take_cost_us(self) -> float:
        """The median of what a message has cost the server in each run since the last time."""
        costs_us, self._costs_us = self._costs_us, []
        return median(costs_us)
