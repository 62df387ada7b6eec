"""What one follower of a stream has not read yet."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Mapping, Sequence
from typing import Any

from marketd.domain.errors import ProviderFailed

Message = Mapping[str, Any]

# Batches that may wait. Whoever is that late asks history instead.
_MOST = 1_000


class Inbox:
    """Messages of one symbol, in the order they came in, and at last why no more come."""

    def __init__(self, symbol: str, channels: Sequence[str]) -> None:
        self.symbol = symbol
        self.keys = frozenset((channel, symbol) for channel in channels)
        self._batches: deque[Sequence[Message]] = deque()
        self._failure: Exception | None = None
        self._wake = asyncio.Event()

    def put(self, batch: Sequence[Message]) -> None:
        if len(self._batches) < _MOST:
            self._batches.append(batch)
            self._wake.set()
        else:
            self.fail(
                ProviderFailed(f"Trades of {self.symbol[:50]} came in faster than they were read.")
            )

    def fail(self, failure: Exception) -> None:
        """Ends it, after what came in before; the first failure counts."""
        self._failure = self._failure or failure
        self._wake.set()

    async def batches(self) -> AsyncIterator[Sequence[Message]]:
        while True:
            while self._batches:
                yield self._batches.popleft()
            if self._failure is not None:
                raise self._failure
            self._wake.clear()
            await self._wake.wait()
