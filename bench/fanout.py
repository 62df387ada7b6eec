"""A message to each of 1,000 WebSocket clients, in messages a second, all clients together.

marketd's own way from the broadcast through outboxes and writers to real sockets, against a bare loop
of `send_str` over as many clients with the same text. One message at a time, and in bursts of ten that
are due to each client at once. The clock runs until the clients have all of them.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, closing
from pathlib import Path

from bench.load import Audience
from bench.process import Server
from bench.report import Row, alternate, faster
from bench.stage import SUBSCRIBE, message

_CLIENTS = 1_000
_BURST = 10


def rows(scratch: Path, quick: bool) -> Iterator[Row]:
    rounds, messages = (3, 50) if quick else (5, 100)
    text = scratch / "message"
    text.write_bytes(message())
    with ExitStack() as stack:
        marketd = stack.enter_context(Server("bench.stage", scratch / "marketd.db"))
        bare = stack.enter_context(Server("bench.peers", "sends", text))
        ours = _Fanout(marketd, stack.enter_context(closing(Audience(marketd, _CLIENTS, SUBSCRIBE))))
        theirs = _Fanout(bare, stack.enter_context(closing(Audience(bare, _CLIENTS, None))))
        versus = alternate(lambda: ours.run(messages, 1), lambda: theirs.run(messages, 1), rounds)
        yield faster("fan-out to 1,000 clients, singly", "aiohttp send_str loop", versus, "msg/s", 1.0)
        bursts = messages // _BURST
        versus = alternate(lambda: ours.run(bursts, _BURST), lambda: theirs.run(bursts, _BURST), rounds)
        yield faster(
            "fan-out to 1,000 clients, bursts of 10", "aiohttp send_str loop", versus, "msg/s", 3.0
        )


class _Fanout:
    """A server that sends when told to, and its clients."""

    def __init__(self, server: Server, audience: Audience) -> None:
        self._server = server
        self._audience = audience
        server.tell("1 1")
        self._frame_length = audience.first_messages()

    def run(self, bursts: int, size: int) -> float:
        messages = bursts * size * _CLIENTS
        started_s = time.perf_counter()
        self._server.tell(f"{bursts} {size}")
        self._audience.take(messages, self._frame_length)
        return messages / (time.perf_counter() - started_s)
