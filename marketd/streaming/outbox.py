"""What waits for one client: bounded, never awaited by who fills it, written once a turn of the loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Protocol

from marketd.metrics import Metrics
from marketd.streaming.messages import Format, Message

# How often within its patience an outbox looks whether the client has taken anything.
_LOOKS = 10


class Sink(Protocol):
    """Where a client's frames go."""

    def write(self, data: bytes) -> bool:
        """Hands over whole frames. Never blocks; what cannot be sent yet is kept by the sink.

        False once it keeps so much that nothing more should be written.
        """

    def held(self) -> int:
        """How many bytes it keeps."""

    async def drain(self) -> None:
        """Returns once it keeps little; ConnectionError if it never will."""


class Postman(Protocol):
    """Who empties outboxes."""

    def call(self, outbox: Outbox) -> None:
        """Asks for `outbox` to be emptied in this turn of the loop."""


class Outbox:
    """A queue of encoded messages, bounded in bytes.

    All that comes within one turn of the loop leaves in one write. Closed bars are never dropped: once
    they do not fit, or the sink has taken nothing for `patience_s` while it is full, `overflow` is
    called, once, nothing more is taken or written, and the client is to be cut.
    """

    # There are many, and an event for all of them passes each in microseconds.
    __slots__ = (
        "_bulk",
        "_draining",
        "_forming",
        "_frames",
        "_is_closed",
        "_is_idle",
        "_metrics",
        "_most_bytes",
        "_overflow",
        "_patience_s",
        "_postman",
        "_sink",
        "_vacancy",
        "format",
        "waiting",
    )

    def __init__(
        self,
        how: Format,
        sink: Sink,
        postman: Postman,
        *,
        most_bytes: int,
        patience_s: float,
        overflow: Callable[[], None],
        metrics: Metrics,
    ) -> None:
        self.format = how
        self._sink = sink
        self._postman = postman
        self._most_bytes = most_bytes
        self._patience_s = patience_s
        self._overflow = overflow
        self._metrics = metrics
        self._frames: list[bytes] = []
        # How many bytes these are.
        self.waiting = 0
        # Where among the frames a stream's forming bar waits.
        self._forming: dict[object, int] = {}
        self._is_closed = False
        # Whether nothing is ahead of the next frame; else the postman, or the task below, will write.
        self._is_idle = True
        self._draining: asyncio.Task[None] | None = None
        self._vacancy: asyncio.Future[None] | None = None
        self._bulk = asyncio.Lock()

    def put(self, message: Message) -> None:
        """Adds a message that must arrive."""
        if self._is_closed:
            return
        frame = message.frame(self.format)
        waiting = self.waiting + len(frame)
        if waiting > self._most_bytes and self._frames:
            self.give_up()
            return
        self._frames.append(frame)
        self.waiting = waiting
        if self._is_idle:
            self._is_idle = False
            self._postman.call(self)

    def write_through(self, frames: bytes) -> bool:
        """Writes whole frames at once; False if something is ahead of them, or they are too many."""
        if not self._is_idle or len(frames) > self._most_bytes:
            return False
        if not self._sink.write(frames):
            self._is_idle = False
            self._draining = asyncio.create_task(self._drain())
        return True

    def put_news(self, stream: object, message: Message) -> None:
        """Adds news of a stream; a forming bar, which does not last, replaces the one that waits."""
        if message.lasts:
            self.put(message)
            # What forms after this belongs behind it.
            self._forming.pop(stream, None)
            return
        place = self._forming.get(stream)
        if place is None:
            self.put(message)
            if not self._is_closed:
                self._forming[stream] = len(self._frames) - 1
        else:
            frame = message.frame(self.format)
            self.waiting += len(frame) - len(self._frames[place])
            self._frames[place] = frame
            self._metrics.stream_conflated.inc()

    async def put_bulk(self, messages: Sequence[Message]) -> None:
        """Adds a large part of something larger, once all that waits is on its way to the client.

        Who sends in bulk takes turns, so that one such part at a time counts towards the bound.
        """
        async with self._bulk:
            if not self._is_idle:
                self._vacancy = asyncio.get_running_loop().create_future()
                await self._vacancy
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
        self._is_idle = False
        self._clear()
        if self._draining is not None:
            self._draining.cancel()

    def flush(self) -> None:
        """Writes all that waits, and counts it."""
        self._metrics.stream_bytes.inc(self.waiting)
        self._metrics.stream_messages.inc(self.write())

    def write(self) -> int:
        """Writes all that waits, and says how many messages that were; the postman counts them."""
        frames = self._frames
        count = len(frames)
        if count:
            has_room = self._sink.write(frames[0] if count == 1 else b"".join(frames))
            self._clear()
            if not has_room:
                self._draining = asyncio.create_task(self._drain())
                return count
        self._is_idle = not self._is_closed
        if self._vacancy is not None and not self._vacancy.done():
            self._vacancy.set_result(None)
        return count

    def _clear(self) -> None:
        self._frames.clear()
        self.waiting = 0
        if self._forming:
            self._forming.clear()

    async def _drain(self) -> None:
        """Writes what waits once the sink has room; gives the client up if that is not to be."""
        try:
            has_room = await self._has_room()
        except ConnectionError:
            # The client has gone; its connection learns of it by itself.
            return
        self._draining = None
        if has_room:
            self.flush()
        else:
            self.give_up()

    async def _has_room(self) -> bool:
        """Waits for the sink to have room; False once it has taken nothing for too long."""
        loop = asyncio.get_running_loop()
        held, since_s = self._sink.held(), loop.time()
        drained = asyncio.ensure_future(self._sink.drain())
        try:
            while True:
                done, _ = await asyncio.wait([drained], timeout=self._patience_s / _LOOKS)
                if done:
                    drained.result()
                    return True
                if self._sink.held() < held:
                    held, since_s = self._sink.held(), loop.time()
                elif loop.time() - since_s >= self._patience_s:
                    return False
        finally:
            drained.cancel()
