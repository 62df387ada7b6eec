"""One plugin object: opened at most once, used by calls, and closed when they have ended."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple, Protocol

from marketd.domain.rate_limit import RateLimit
from marketd.plugins.base import MarketPlugin


class Limiter(Protocol):
    """What a provider needs of a rate limiter: one line for everybody who uses the same key."""

    async def acquire(
        self, limit: RateLimit, cost: int, *, deadline_s: float | None, background: bool
    ) -> None:
        """Returns when a call may be made.

        Raises ProviderRateLimited if that is not before `deadline_s`, the loop's time.
        """

    async def penalise(self, pause_s: float) -> None:
        """Lets nobody call for `pause_s`."""


class Source(NamedTuple):
    """What the configuration says of a provider: its plugin, made anew each time, and its rate limit.

    `rate_limit` replaces the plugin's own.
    """

    make: Callable[[], MarketPlugin]
    limiter: Limiter
    rate_limit: RateLimit | None = None


class Instance:
    """A plugin object, and who uses it.

    What it declares may be read at any time; it is asked only between `open` and `close`, once each.
    """

    def __init__(self, source: Source) -> None:
        self.source = source
        self.plugin = plugin = source.make()
        self.limiter = source.limiter
        self.calls = asyncio.Semaphore(plugin.concurrency)
        # Background work leaves one call to whoever waits for an answer.
        self.background_calls = asyncio.Semaphore(max(1, plugin.concurrency - 1))
        self.is_open = False
        self.was_open = False
        self.is_spent = False
        self._users = 0
        self._unused = asyncio.Event()
        self._unused.set()

    @property
    def rate_limit(self) -> RateLimit | None:
        """How often it lets itself be asked: what the configuration says, else what the plugin does."""
        return self.source.rate_limit or self.plugin.rate_limit

    def opened(self) -> None:
        """The plugin can be asked from now on."""
        self.is_open = self.was_open = True

    def spend(self) -> None:
        """Nobody begins to use it any more."""
        self.is_open, self.is_spent = False, True

    @contextmanager
    def used(self) -> Iterator[None]:
        """A call that is bounded in time: until it has ended the plugin is not closed."""
        self._users += 1
        self._unused.clear()
        try:
            yield
        finally:
            self._users -= 1
            if not self._users:
                self._unused.set()

    async def unused(self) -> None:
        """Returns once no call is under way."""
        await self._unused.wait()
