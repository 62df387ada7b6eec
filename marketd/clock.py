"""Where time comes from. Components take a clock; only this file reads the system's."""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod


class Clock(ABC):
    """Tells the time and waits for it."""

    @abstractmethod
    def now_ms(self) -> int:
        """Epoch milliseconds UTC."""

    @abstractmethod
    async def sleep_until(self, t_ms: int) -> None:
        """Returns once `now_ms()` has reached `t_ms`; at once if it has."""


class SystemClock(Clock):
    """The machine's own time."""

    def now_ms(self) -> int:
        return time.time_ns() // 1_000_000

    async def sleep_until(self, t_ms: int) -> None:
        # The system's clock may be set while we sleep: look again before saying that it is time.
        while (left_ms := t_ms - self.now_ms()) > 0:  # noqa: ASYNC110
            await asyncio.sleep(min(left_ms / 1000, 60.0))


class ScaledClock(Clock):
    """A clock that stood at `start_ms` when it was made and runs at `speed` times another's rate."""

    def __init__(self, inner: Clock, *, start_ms: int, speed: float) -> None:
        self._inner = inner
        self._start_ms = start_ms
        self._speed = speed
        self._origin_ms = inner.now_ms()

    def now_ms(self) -> int:
        return self._start_ms + int((self._inner.now_ms() - self._origin_ms) * self._speed)

    async def sleep_until(self, t_ms: int) -> None:
        while self.now_ms() < t_ms:
            inner_ms = (t_ms - self._start_ms) / self._speed
            await self._inner.sleep_until(self._origin_ms + int(inner_ms) + 1)


class ManualClock(Clock):
    """A clock that moves only when told to: for tests, ours and plugin authors'."""

    def __init__(self, now_ms: int) -> None:
        self._now_ms = now_ms
        self._waiters: dict[asyncio.Future[None], int] = {}

    def now_ms(self) -> int:
        return self._now_ms

    def set(self, now_ms: int) -> None:
        """Moves the clock to `now_ms` and wakes whoever waited for a time up to it."""
        self._now_ms = now_ms
        for waiter, t_ms in list(self._waiters.items()):
            if t_ms <= now_ms and not waiter.done():
                waiter.set_result(None)

    def advance(self, ms: int) -> None:
        """Moves the clock `ms` onwards."""
        self.set(self._now_ms + ms)

    async def sleep_until(self, t_ms: int) -> None:
        while self._now_ms < t_ms:
            waiter = asyncio.get_running_loop().create_future()
            self._waiters[waiter] = t_ms
            try:
                await waiter
            finally:
                del self._waiters[waiter]
