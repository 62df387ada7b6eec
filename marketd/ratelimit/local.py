"""The allowance of a key that one process alone uses."""

from __future__ import annotations

import time
from collections.abc import Callable

from marketd.domain.rate_limit import RateLimit
from marketd.ratelimit.base import WAKE_US, Allowance, Taken


def _monotonic_us() -> int:
    return time.monotonic_ns() // 1000


class LocalAllowance(Allowance):
    """Kept in memory. `now_us` is any clock that never goes back."""

    def __init__(self, now_us: Callable[[], int] = _monotonic_us) -> None:
        self._now_us = now_us
        self._tat_us = 0
        self._blocked_us = 0  # nobody before
        self._wanted_us = 0  # no background work before

    async def take(self, limit: RateLimit, cost: int, *, background: bool) -> Taken:
        now_us = self._now_us()
        room = max(cost, limit.burst - background)
        tat_us = max(self._tat_us, now_us) + cost * limit.interval_us
        free_us = max(tat_us - room * limit.interval_us, self._blocked_us)
        if background:
            free_us = max(free_us, self._wanted_us)
        if free_us > now_us:
            if not background:
                self._wanted_us = max(self._wanted_us, free_us + WAKE_US)
            return Taken(free_us - now_us, now_us)
        self._tat_us = tat_us
        return Taken(0, now_us)

    async def block(self, pause_us: int) -> None:
        self._blocked_us = max(self._blocked_us, self._now_us() + pause_us)
