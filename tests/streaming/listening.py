"""The far end of an outbox: a sink that reads the frames it is given."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from marketd.streaming.messages import Format


def payloads(data: bytes) -> list[bytes]:
    """The payloads of unmasked, unfragmented frames, by the book (RFC 6455, section 5.2)."""
    found: list[bytes] = []
    while data:
        assert data[0] in (0x81, 0x82)
        length, start = data[1], 2
        if length >= 126:
            start = 4 if length == 126 else 10
            length = int.from_bytes(data[2:start], "big")
        assert len(data) >= start + length
        found.append(data[start : start + length])
        data = data[start + length :]
    return found


async def turns() -> None:
    """Lets who waits for room see that there is."""
    for _ in range(10):
        await asyncio.sleep(0)


class Sink:
    """Keeps what is written; full while a test says so."""

    format = Format.JSON

    def __init__(self) -> None:
        self.writes: list[bytes] = []
        self._written = asyncio.Event()
        self._has_room = asyncio.Event()
        self._has_room.set()
        self._fills = False

    def fill(self) -> None:
        """From now on there is no room."""
        self._has_room.clear()

    def empty(self) -> None:
        """There is room again."""
        self._has_room.set()

    def admit_one(self) -> None:
        """There is room for one write, which fills it again."""
        self._fills = True
        self._has_room.set()

    def write(self, data: bytes) -> bool:
        self.writes.append(data)
        self._written.set()
        if self._fills:
            self._fills = False
            self._has_room.clear()
        return self._has_room.is_set()

    def held(self) -> int:
        return 0 if self._has_room.is_set() else 1

    async def drain(self) -> None:
        await self._has_room.wait()

    async def take(self) -> list[dict[str, Any]]:
        """The messages written since the last time, once there are any."""
        async with asyncio.timeout(30):
            await self._written.wait()
        return self.taken()

    def taken(self) -> list[dict[str, Any]]:
        """The same, without waiting."""
        self._written.clear()
        writes, self.writes = self.writes, []
        return [json.loads(payload) for data in writes for payload in payloads(data)]
