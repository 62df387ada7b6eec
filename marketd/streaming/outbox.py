"""What waits for one client: bounded, never awaited by who fills it, drained by the client's writer."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence

from marketd.domain.instrument import Series
from marketd.metrics import Metrics
from marketd.streaming.messages import Format, Message


class _Slot:
    """A place in the queue; a forming bar that still waits gives its place to a newer one."""

    __slots__ = ("frame",)

    def __init__(self, frame: bytes) -> None:
        self.frame = frame


class Outbox:
    """A queue of encoded messages, bounded in bytes.

    Closed bars are never dropped: once they do not fit, `overflowed` is set for good, nothing more is
    taken, and the client is to be cut.
    """

    def __init__(self, how: Format, *, most_bytes: int, metrics: Metrics) -> None:
        self.format = how
        self.overflowed = asyncio.Event()
        self._most_bytes = most_bytes
        self._metrics = metrics
        self._slots: deque[_Slot] = deque()
        self._forming: dict[Series, _Slot] = {}
        self._bytes = 0
        self._filled = asyncio.Event()
        self._emptied = asyncio.Event()
        self._emptied.set()
        self._bulk = asyncio.Lock()

    def put(self, message: Message) -> None:
        """Adds a message that must arrive."""
        self._append(_Slot(message.encoded(self.format)))

    def put_bar(self, series: Series, message: Message, *, closed: bool) -> None:
        """Adds a bar of a stream; a forming one takes the place of the one that still waits."""
        frame = message.encoded(self.format)
        waiting = self._forming.get(series)
        if closed:
            # What forms after this bar belongs behind it.
            self._forming.pop(series, None)
        elif waiting is not None:
            self._bytes += len(frame) - len(waiting.frame)
            waiting.frame = frame
            self._metrics.stream_conflated.inc()
            return
        slot = _Slot(frame)
        if not closed:
            self._forming[series] = slot
        self._append(slot)

    async def take(self) -> list[bytes]:
        """Everything that waits, once something does; frames in order."""
        await self._filled.wait()
        frames = [slot.frame for slot in self._slots]
        self._slots.clear()
        self._forming.clear()
        self._bytes = 0
        self._filled.clear()
        self._emptied.set()
        return frames

    def overflow(self) -> None:
        """Gives the client up: nothing is taken for it any more."""
        self.overflowed.set()

    async def put_bulk(self, messages: Sequence[Message]) -> None:
        """Adds a large part of something larger, once the writer has taken all that waits.

        Who sends in bulk takes turns, so that one such part at a time counts towards the bound.
        """
        async with self._bulk:
            await self._emptied.wait()
            for message in messages:
                self.put(message)

    def _append(self, slot: _Slot) -> None:
        if self.overflowed.is_set():
            return
        if self._slots and self._bytes + len(slot.frame) > self._most_bytes:
            self.overflow()
        else:
            self._slots.append(slot)
            self._bytes += len(slot.frame)
            self._emptied.clear()
            self._filled.set()
