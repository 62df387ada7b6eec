"""Who may ask a provider now, and who has to wait: one line for everybody who uses the same key.

An `Allowance` is the account of what a key may still spend, kept by GCRA: `tat` is the time by which
all that was spent will have come back, and a request fits if `tat` does not lie further ahead than a
burst. A `RateLimiter` is the line in front of it in this process.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from typing import NamedTuple

from marketd.domain.errors import ProviderRateLimited
from marketd.domain.rate_limit import RateLimit

# More than this many in line are turned away.
MOST_WAITING = 10_000
# How long, beyond its turn, an interactive caller's wish keeps background work away: it has to wake.
WAKE_US = 50_000


class Taken(NamedTuple):
    """`wait_us` is 0 if the request may be made, else how long to wait before asking again.

    `at_us` is when that was decided, on the allowance's own clock.
    """

    wait_us: int
    at_us: int


class Allowance(ABC):
    """What one key may spend. `tests/contract` holds every kind to the same model.

    Background work leaves one request of the burst to interactive callers, and while one of them has
    been told to wait it gets nothing. A cost above the burst waits until the whole burst is there.
    """

    @abstractmethod
    async def take(self, limit: RateLimit, cost: int, *, background: bool) -> Taken:
        """Spends `cost` if it fits now; never raises, never waits for its turn."""

    @abstractmethod
    async def block(self, pause_us: int) -> None:
        """Lets nobody spend anything for `pause_us`, or longer if it is blocked for longer already."""


class RateLimiter:
    """The line in front of an allowance: first come first served, background work after all others."""

    def __init__(self, allowance: Allowance) -> None:
        self._allowance = allowance
        self._lines = {background: _Line() for background in (False, True)}
        self._quiet = asyncio.Event()  # set while no interactive caller waits
        self._quiet.set()

    async def acquire(
        self, limit: RateLimit, cost: int = 1, *, deadline_s: float | None, background: bool = False
    ) -> None:
        """Returns when the request may be made; it may be cancelled at any time.

        Raises ProviderRateLimited as soon as it is clear that this is not before `deadline_s` (the
        loop's time), or that too many wait.
        """
        loop = asyncio.get_running_loop()
        line = self._lines[background]
        now_s = loop.time()
        turn_s = line.turn_s(now_s)
        # Who has no time left though nobody is in line is not late because of the rate limit.
        is_late = deadline_s is not None and turn_s > max(now_s, deadline_s)
        if is_late or line.waiting >= MOST_WAITING:
            raise _refused(turn_s - now_s)
        weight_s = cost * limit.interval_us / 1e6
        line.waiting += 1
        line.queued_s += weight_s
        if not background:
            self._quiet.clear()
        try:
            async with asyncio.timeout_at(deadline_s), line.lock:
                while True:
                    if background:
                        await self._quiet.wait()
                    wait_us, _ = await self._allowance.take(limit, cost, background=background)
                    if not wait_us:
                        return
                    line.ready_s = loop.time() + wait_us / 1e6
                    if deadline_s is not None and line.ready_s > deadline_s:
                        raise _refused(wait_us / 1e6)
                    await asyncio.sleep(wait_us / 1e6)
        except TimeoutError:
            raise _refused(line.turn_s(loop.time()) - loop.time()) from None
        finally:
            line.waiting -= 1
            # Sums of floats drift: an empty line has nobody in it, exactly.
            line.queued_s = line.queued_s - weight_s if line.waiting else 0.0
            if not background and not line.waiting:
                self._quiet.set()

    async def penalise(self, pause_s: float) -> None:
        """Stops everybody who shares the key for `pause_s`, because the provider has said so."""
        await self._allowance.block(round(pause_s * 1e6))


class _Line:
    """Those who wait, first come first served by the fairness of the lock."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.waiting = 0
        self.queued_s = 0.0  # the time that all who wait take up
        self.ready_s = 0.0  # when the first of them gets its turn

    def turn_s(self, now_s: float) -> float:
        """When somebody who joins now may expect a turn."""
        return max(now_s, self.ready_s) + self.queued_s if self.waiting else now_s


def _refused(wait_s: float) -> ProviderRateLimited:
    return ProviderRateLimited(
        "The provider's rate limit leaves no room for this request in time.",
        retry_after_s=max(0.0, wait_s),
    )
