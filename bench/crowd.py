"""`python -m bench.crowd HOST PORT`: WebSocket clients in a process of their own, which obey lines.

So neither a server nor what measures it pays for them. A command is one line of JSON on standard input,
and so is its answer on standard output.
"""

from __future__ import annotations

import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import quantiles
from typing import Any, NamedTuple, cast

import orjson

from bench.load import Address, Audience, frames
from bench.process import Process, most_files

_PATIENCE_S = 60.0


class Delays(NamedTuple):
    """How many ms news took to reach a client: the median, and what 99 of 100 did not exceed."""

    p50: float
    p99: float


class Crowd(Process):
    """Such a process, from its start until the block ends."""

    def __init__(self, server: Address) -> None:
        super().__init__("bench.crowd", server.host, str(server.port))

    def join(self, clients: int, say: bytes | None, *, addresses: int = 1) -> None:
        """Connects clients, from several addresses; each may say one thing, and has its answer then."""
        said = None if say is None else say.decode()
        self._ask(["join", clients, said, addresses])

    def hear(self, seconds: float) -> Delays:
        """Listens for that long to bars whose volume is the time (`time.monotonic()`) they were made."""
        return Delays(*self._ask(["hear", seconds]))

    def ask_for_history(self, says: Sequence[bytes]) -> float:
        """Each client says one of these; the seconds until every one of them has had its snapshot."""
        return cast("float", self._ask(["ask_for_history", [say.decode() for say in says]]))

    def _ask(self, command: list[Any]) -> Any:
        self.tell(orjson.dumps(command).decode())
        said = ""
        for line in self.lines():
            said += line
            if line.startswith("= "):
                return orjson.loads(line[2:])
        raise RuntimeError(f"The clients have ended:\n{said}")


@dataclass(frozen=True, slots=True)
class _At:
    host: str
    port: int


class _Clients:
    """The other side of a crowd."""

    def __init__(self, host: str, port: str) -> None:
        self._server = _At(host, int(port))
        self._audience: Audience
        self._count = 0
        # What has come of frames that are not whole yet.
        self._left: defaultdict[int, bytearray] = defaultdict(bytearray)

    def join(self, clients: int, say: str | None, addresses: int) -> None:
        said = None if say is None else say.encode()
        self._count = clients
        self._audience = Audience(self._server, clients, said, addresses=addresses)

    def hear(self, seconds: float) -> list[float]:
        started_s = time.monotonic()
        # What comes is looked at afterwards: now nothing but its arrival costs time.
        heard = list(self._audience.arrivals(started_s + seconds))
        delays_ms: list[float] = []
        for at_s, fd, data in heard:
            for payload in self._whole(fd, data):
                message = orjson.loads(payload)
                # News from before has waited for this to begin.
                if message["type"] == "bar" and (made_s := message["bar"][5]) >= started_s:
                    delays_ms.append((at_s - made_s) * 1_000)
        cuts = quantiles(delays_ms, n=100)
        return [cuts[49], cuts[98]]

    def ask_for_history(self, says: list[str]) -> float:
        started_s = time.monotonic()
        self._audience.say_all([say.encode() for say in says])
        answered: set[int] = set()
        for at_s, fd, data in self._audience.arrivals(started_s + _PATIENCE_S):
            for payload in self._whole(fd, data):
                if payload.startswith(b'{"type":"snapshot"'):
                    if b'"complete":false' in payload[-400:]:
                        raise RuntimeError("The history of the bench has a gap.")
                    answered.add(fd)
            if len(answered) == self._count:
                return at_s - started_s
        raise TimeoutError(f"{self._count - len(answered)} clients had no snapshot.")

    def _whole(self, fd: int, data: bytes) -> list[bytes]:
        """The payloads of the frames to a client that are whole now that `data` has come."""
        left = self._left[fd]
        left += data
        ends = list(frames(left))
        payloads = [bytes(left[start:end]) for start, end in ends]
        if ends:
            del left[: ends[-1][1]]
        return payloads


if __name__ == "__main__":
    most_files()
    clients = _Clients(*sys.argv[1:])
    for line in sys.stdin:
        command, *arguments = orjson.loads(line)
        print("=", orjson.dumps(getattr(clients, command)(*arguments)).decode(), flush=True)
