"""The life of a provider's plugin: opened when it is first needed, shared, and closed again.

A plugin is opened by the first call, closed when nobody has needed it for long, and replaced when its
section of the configuration changes; calls under way are answered by the one that they began with.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from marketd.domain.errors import MarketdError, NotReady, UnknownProvider
from marketd.plugins.base import MarketPlugin
from marketd.plugins.guard import NOW, Guard, Health, SetUpAnew
from marketd.plugins.instance import Instance, Source

log = logging.getLogger(__name__)

T = TypeVar("T")

_REOPEN_AFTER_S = 5.0


class ProviderLife:
    """What a provider is apart from its data: which plugin it has at present, and how that is."""

    def __init__(self, name: str, source: Source, guard: Guard) -> None:
        self.name = name
        self._source = source
        self._guard = guard
        self._instance = Instance(source)
        self._opening: asyncio.Task[None] | None = None
        self._reopen_at_s = 0.0
        self._is_gone = False
        self._leases = 0
        self._idle_since_s = time.monotonic()

    @property
    def plugin(self) -> MarketPlugin:
        """The plugin, for what it declares; some of that it finds out as it opens."""
        return self._instance.plugin

    @property
    def health(self) -> Health:
        """How it is."""
        return self._guard.health

    @contextmanager
    def lease(self) -> Iterator[None]:
        """Keeps it from being closed as idle: held by whoever will need it for longer than a call."""
        self._leases += 1
        try:
            yield
        finally:
            self._leases -= 1
            self._idle_since_s = time.monotonic()

    async def open(self) -> None:
        """Opens the plugin unless it is open; one attempt, its failure is raised and kept as health."""
        await self._opened()

    async def close_if_idle(self, idle_s: float) -> None:
        """Closes the plugin if nobody has needed it for so long; the next call opens another one.

        One with a clock of its own stays, since its time would begin anew.
        """
        instance = self._instance
        has_own_time = instance.plugin.clock is not instance.plugin.context.clock
        unused_s = time.monotonic() - self._idle_since_s
        if not instance.is_open or self._leases or unused_s < idle_s or has_own_time:
            return
        log.info("provider closed provider=%s idle_s=%.0f", self.name, unused_s)
        self._guard.rests()
        await self._give_up(instance)

    async def replace(self, source: Source) -> None:
        """Goes on with another source; returns when the plugin of the former one is closed.

        Calls under way are answered by the former plugin. A stream of it fails with its next update, for
        whoever follows it to begin anew.
        """
        former, self._source = self._instance, source
        self._instance = Instance(source)
        self._is_gone = False
        self._reopen_at_s = 0.0
        self._guard.rests()
        await self._give_up(former)

    async def remove(self) -> None:
        """It is configured no more: whoever asks is told so. Returns when its plugin is closed."""
        self._is_gone = True
        await self._give_up(self._instance)
        self._guard.forget()

    async def close(self) -> None:
        """Ends what is under way and closes the plugin."""
        self._is_gone = True
        if self._opening is not None:
            self._opening.cancel()
            await asyncio.gather(self._opening, return_exceptions=True)
        if not self._instance.is_spent:
            self._instance.spend()
            await self._close(self._instance)

    async def _ask(self, ask: Callable[[Instance], Awaitable[T]]) -> T:
        """What `ask` gives of the open plugin, or of the one that has taken its place meanwhile."""
        with self.lease():
            while True:
                instance = await self._opened()
                try:
                    return await ask(instance)
                except SetUpAnew:
                    continue

    async def _opened(self) -> Instance:
        """The open plugin. Who gives up waiting for it does not keep it from opening."""
        while not self._instance.is_open:
            if self._is_gone:
                raise UnknownProvider(f"There is no provider {self.name} any more.")
            if self._opening is None:
                if time.monotonic() < self._reopen_at_s:
                    raise NotReady(f"{self.name} is down: {self.health.message}")
                self._opening = asyncio.create_task(self._open_anew(), name=f"open {self.name}")
                self._opening.add_done_callback(self._opening_ended)
            await asyncio.shield(self._opening)
        return self._instance

    async def _open_anew(self) -> None:
        """Opens a plugin of the present source: the one that waits for it, or a new one."""
        source = self._source
        instance = Instance(source) if self._instance.is_spent else self._instance
        self._guard.opens()
        try:
            await self._guard.take_turn(instance, 1, NOW)
            await self._guard.bounded(instance.plugin.open)
        except BaseException as error:
            instance.spend()
            if isinstance(error, MarketdError) and source is self._source:
                self._reopen_at_s = time.monotonic() + _REOPEN_AFTER_S
                self._guard.failed(error)
            await self._close(instance)
            raise
        if source is not self._source or self._is_gone:
            instance.spend()
            await self._close(instance)
            return
        instance.opened()
        self._instance = instance
        self._idle_since_s = time.monotonic()
        self._guard.succeeded()

    def _opening_ended(self, task: asyncio.Task[None]) -> None:
        self._opening = None
        if not task.cancelled():
            task.exception()  # those who wait are told; there may be none

    async def _give_up(self, instance: Instance) -> None:
        """Closes a plugin as soon as the calls under way have ended, which are bounded."""
        if instance.is_spent:
            return
        was_open = instance.is_open
        instance.spend()
        await instance.unused()
        if was_open:
            await self._close(instance)

    async def _close(self, instance: Instance) -> None:
        """Closes a plugin; a failure to do so is logged, since nobody can act on it any more."""
        try:
            await self._guard.bounded(instance.plugin.close)
        except MarketdError as error:
            log.warning("provider did not close provider=%s reason=%s", self.name, error.message)
