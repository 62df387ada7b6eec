"""What a node does for a backfill that it has claimed: one round of it, kept in the store meanwhile."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from marketd.backfill.job import Backfill, Brought, State
from marketd.backfill.round import Means, Round
from marketd.bus.base import LEASE_MS
from marketd.clock import Clock
from marketd.domain.errors import MarketdError, StorageFailed, Superseded
from marketd.storage import Storage

log = logging.getLogger(__name__)


class Worker:
    """Works on one backfill while `task` runs, which is `run`; `ended` is called when it returns."""

    task: asyncio.Task[None]

    def __init__(
        self,
        backfill: Backfill,
        means: Means,
        *,
        storage: Storage,
        clock: Clock,
        ended: Callable[[Worker], None],
    ) -> None:
        self.backfill = backfill
        self._means = means
        self._storage = storage
        self._clock = clock
        self._ended = ended
        # What is saved last is what was to be.
        self._saving = asyncio.Lock()
        self._has_ended = False

    async def run(self) -> None:
        """One round, to its end: that of the backfill, or until another node has taken it over."""
        backfill = self.backfill
        if not backfill.wanted.repair:
            backfill.brought = Brought()
        backfill.state = State.RUNNING
        with self._means.metrics.backfills_running.track_inprogress():
            try:
                await Round(backfill, self._means, self.keep).run()
            except* Superseded:
                log.info("backfill taken over id=%s", backfill.id)
            except* MarketdError as failures:
                backfill.message = _first(failures).message
                log.warning("backfill failed id=%s reason=%s", backfill.id, backfill.message)
                await self._end(State.FAILED)
            else:
                backfill.message = ""
                await self._end(State.DONE)
        self._ended(self)

    async def keep(self) -> None:
        """Saves how far it is, and renews the claim. Raises Superseded and StorageFailed."""
        async with self._saving:
            if not self._has_ended:
                await self._save(LEASE_MS)

    async def renew(self) -> None:
        """Keeps the claim, and ends where that is lost. Raises StorageFailed."""
        try:
            await self.keep()
        except Superseded:
            await self.stop()
            self._ended(self)

    async def stop(self) -> None:
        """Returns once nothing is done any more."""
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)

    async def give_back(self) -> None:
        """Lets another node claim it at once, after `stop`."""
        try:
            await self._save(0)
        except (StorageFailed, Superseded) as error:
            log.info("backfill not given back id=%s reason=%s", self.backfill.id, error.message)

    async def _end(self, state: State) -> None:
        backfill = self.backfill
        async with self._saving:
            backfill.state, backfill.eta_s = state, None
            if backfill.kept is not None:
                backfill.next_ms = self._clock.now_ms() + backfill.kept.every
            await self._save(0)
            self._has_ended = True

    async def _save(self, lease_ms: int) -> None:
        self.backfill.updated_ms = self._clock.now_ms()
        await self._storage.save_job(self.backfill.job(), lease_ms=lease_ms)


def _first(group: BaseExceptionGroup[MarketdError]) -> MarketdError:
    first = group.exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first
