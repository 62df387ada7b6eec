"""What waits for one client: bounded, never awaited by who fills it, written once a turn of the loop."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

from marketd.domain.instrument import Series
from marketd.metrics import Metrics
from marketd.streaming.messages import Format, Message


class Sink(Protocol):
    """Where a client's frames go."""

    def write(self, data: bytes) -> None:
        """Hands over whole frames. Never blocks; what cannot be sent yet is kept by the sink."""

    def is_full(self) -> bool:
        """True while the sink keeps so much that nothing more should be written."""

    async def drain(self) -> None:
        """Returns once that is over; ConnectionError if it never will be."""


class _Slot:
    """A place in the queue; a forming bar that still waits gives its place to a newer one."""

    __slots__ = ("frame",)

    def __init__(self, frame: bytes) -> None:
        self.frame = frame


class Outbox:
    """A queue of encoded messages, bounded in bytes.

    All that comes within one turn of the loop leaves in one write. Closed bars are never dropped: once
    they do not fit, `overflow` is called, once, nothing more is taken or written, and the client is
    to be cut.
    """

    def __init__(
        self,
        how: Format,
        sink: Sink,
        *,
        most_bytes: int,
        overflow: Callable[[], None],
        metrics: Metrics,
    ) -> None:
        self.format = how
        self._sink = sink
        self._most_bytes = most_bytes
        self._overflow = overflow
        self._metrics = metrics
        self._loop = asyncio.get_running_loop()
        self._slots: deque[_Slot] = deque()
        self._forming: dict[Series, _Slot] = {}
        self._bytes = 0
        self._is_closed = False
        # What will take the slots: a write in this turn, or the task that waits for the sink.
        self._is_due = False
        self._draining: asyncio.Task[None] | None = None
        self._emptied = asyncio.Event()
        self._emptied.set()
        self._bulk = asyncio.Lock()

    def put(self, message: Message) -> None:
        """Adds a message that must arrive."""
        self._append(_Slot(message.frame(self.format)))

    def put_bar(self, series: Series, message: Message, *, closed: bool) -> None:
        """Adds a bar of a stream; a forming one takes the place of the one that still waits."""
        frame = message.frame(self.format)
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

    async def put_bulk(self, messages: Sequence[Message]) -> None:
        """Adds a large part of something larger, once all that waits is on its way to the client.

        Who sends in bulk takes turns, so that one such part at a time counts towards the bound.
        """
        async with self._bulk:
            await self._emptied.wait()
            for message in messages:
                self.put(message)

    def give_up(self) -> None:
        """Takes the client for one that cannot keep up."""
        if not self._is_closed:
            self.close()
            self._overflow()

    def close(self) -> None:
        """Takes and writes nothing any more."""
        self._is_closed = True
        self._slots.clear()
        if self._draining is not None:
            self._draining.cancel()

    def _append(self, slot: _Slot) -> None:
        if self._is_closed:
            return
        if self._slots and self._bytes + len(slot.frame) > self._most_bytes:
            self.give_up()
            return
        self._slots.append(slot)
        self._bytes += len(slot.frame)
        self._emptied.clear()
        if not self._is_due:
            self._is_due = True
            self._loop.call_soon(self._write)

    def _write(self) -> None:
        slots = self._slots
        if slots:
            frames = [slot.frame for slot in slots]
            slots.clear()
            self._forming.clear()
            self._bytes = 0
            self._sink.write(b"".join(frames))
            self._metrics.stream_messages.inc(len(frames))
        if self._is_closed:
            return
        if self._sink.is_full():
            self._draining = self._loop.create_task(self._drain())
        else:
            self._is_due = False
            self._emptied.set()

    async def _drain(self) -> None:
        try:
            await self._sink.drain()
        except ConnectionError:
            # The client has gone; its connection learns of it by itself.
            return
        self._draining = None
        self._write()
