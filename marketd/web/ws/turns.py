"""A client's commands: each waits for those before it that name one of its streams, and no others."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection, Sequence
from functools import partial

from marketd.streaming.messages import StreamName

# How large the messages may be together whose commands wait, for their provider say.
_MOST_BYTES = 256 * 1024


class Turns:
    """The commands under way. None of them raises anything."""

    def __init__(self) -> None:
        # Each with the size of its message, and the last one for each stream that they name.
        self._sizes: dict[asyncio.Task[None], int] = {}
        self._last: dict[StreamName, asyncio.Task[None]] = {}

    @property
    def under_way(self) -> Collection[asyncio.Task[None]]:
        return self._sizes.keys()

    async def begin(
        self, streams: Sequence[StreamName], size: int, obey: Callable[[], Awaitable[None]]
    ) -> None:
        """Has a command obeyed in its turn; returns once there is room for another."""
        before = {self._last[stream] for stream in streams if stream in self._last}
        task = asyncio.create_task(_after(before, obey))
        self._sizes[task] = size
        self._last |= dict.fromkeys(streams, task)
        task.add_done_callback(partial(self._ended, streams))
        while sum(self._sizes.values()) > _MOST_BYTES:
            await asyncio.wait(self._sizes, return_when=asyncio.FIRST_COMPLETED)

    def _ended(self, streams: Sequence[StreamName], task: asyncio.Task[None]) -> None:
        del self._sizes[task]
        for stream in streams:
            if self._last.get(stream) is task:
                del self._last[stream]


async def _after(before: Collection[asyncio.Task[None]], obey: Callable[[], Awaitable[None]]) -> None:
    if before:
        await asyncio.wait(before)
    await obey()
