"""Beginning anew: pauses that grow, with jitter, and the one error of several that is told."""

from __future__ import annotations

import asyncio
import random
import time

from marketd.domain.errors import MarketdError

_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 30.0


class Backoff:
    """Pauses, each up to twice as long as the one before, until something lasts longer than they do."""

    def __init__(self) -> None:
        self._longest_s = _FIRST_PAUSE_S
        self._begun_s = time.monotonic()

    async def pause(self) -> None:
        if time.monotonic() - self._begun_s > self._longest_s:
            self._longest_s = _FIRST_PAUSE_S
        longest_s = self._longest_s
        self._longest_s = min(2 * longest_s, _LONGEST_PAUSE_S)
        await pause(longest_s)
        self._begun_s = time.monotonic()


async def pause(longest_s: float) -> None:
    """Waits for any part of `longest_s`."""
    await asyncio.sleep(random.uniform(0, longest_s))  # noqa: S311 - full jitter


def first(group: BaseExceptionGroup[MarketdError]) -> MarketdError:
    """The first error in a group, however deep."""
    one = group.exceptions[0]
    return first(one) if isinstance(one, BaseExceptionGroup) else one
