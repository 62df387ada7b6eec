"""Runs the backfills: newest history first, in the background, whatever happens in between.

What has been fetched is told by the coverage of the store alone, so a backfill that begins again, after
a pause or a restart, asks for nothing twice. Only of a repair it is kept how far it was.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from functools import partial

from marketd.backfill.gate import LoadGate
from marketd.backfill.job import KIND, Backfill, Brought, State, Wanted
from marketd.backfill.round import Feeds, History, Means, Round
from marketd.clock import Clock
from marketd.config.kept import KeptConfig
from marketd.domain.errors import Conflict, LimitExceeded, MarketdError, NotFound
from marketd.metrics import Metrics
from marketd.storage import Storage
from marketd.supervisor import Supervisor

log = logging.getLogger(__name__)

# So many run at once, the others wait; so many are kept, the ended ones until there is need of room.
_AT_ONCE = 8
MOST_KEPT = 1_000


class BackfillManager:
    """Every backfill there is: those of clients, and those that the configuration keeps.

    `open` takes up what a former process has left.
    """

    def __init__(
        self,
        *,
        storage: Storage,
        history: History,
        feeds: Feeds,
        gate: LoadGate,
        supervisor: Supervisor,
        clock: Clock,
        metrics: Metrics,
        kept: Sequence[KeptConfig] = (),
    ) -> None:
        self._storage = storage
        self._feeds = feeds
        self._means = Means(history, feeds, gate, metrics, self._save)
        self._supervisor = supervisor
        self._clock = clock
        self._metrics = metrics
        self._kept = kept
        self._jobs: dict[str, Backfill] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._places = asyncio.Semaphore(_AT_ONCE)

    async def open(self) -> None:
        """Goes on with what was under way when the process before ended."""
        now_ms = self._clock.now_ms()
        kept = {one.id: one for config in self._kept for one in Backfill.all_kept(config, now_ms)}
        for job in await self._storage.jobs(KIND):
            backfill = Backfill.of(job)
            if not backfill.is_kept:
                self._jobs[job.id] = backfill
            elif job.id in kept:
                kept[job.id].state, kept[job.id].created_ms = backfill.state, backfill.created_ms
            else:
                # The configuration keeps it no more.
                await self._storage.delete_job(job.id)
        by_age = sorted((self._jobs | kept).values(), key=lambda one: (one.created_ms, one.id))
        self._jobs = {one.id: one for one in by_age}
        for backfill in self._jobs.values():
            if not backfill.is_over and backfill.state is not State.PAUSED:
                backfill.state = State.PENDING
                self._start(backfill)

    def all(self) -> list[Backfill]:
        """The oldest first."""
        return list(self._jobs.values())

    def get(self, backfill_id: str) -> Backfill:
        """NotFound if there is none with that id."""
        if backfill_id not in self._jobs:
            raise NotFound("There is no backfill with this id.")
        return self._jobs[backfill_id]

    async def add(self, wanted: Wanted) -> Backfill:
        """Begins one. Raises what is wrong with its names, or LimitExceeded if there are too many."""
        await self._feeds.feed_of(wanted)
        while len(self._jobs) >= MOST_KEPT:
            ended = next((one for one in self._jobs.values() if one.is_over), None)
            if ended is None:
                raise LimitExceeded(f"There are {MOST_KEPT} backfills under way, which is the most.")
            await self._forget(ended)
        backfill = Backfill.new(wanted, self._clock.now_ms())
        self._jobs[backfill.id] = backfill
        try:
            await self._storage.save_job(backfill.job())
        except BaseException:
            del self._jobs[backfill.id]
            raise
        self._start(backfill)
        return backfill

    async def pause(self, backfill_id: str) -> Backfill:
        """Stops it until `resume`; Conflict if it has ended."""
        backfill = self.get(backfill_id)
        await self._end(backfill, State.PAUSED)
        return backfill

    async def resume(self, backfill_id: str) -> Backfill:
        """Goes on with a paused one, or tries a failed or cancelled one again; else Conflict."""
        backfill = self.get(backfill_id)
        if backfill.state not in (State.PAUSED, State.FAILED, State.CANCELLED):
            raise Conflict(f"This backfill is {backfill.state} already.")
        await self._stop(backfill)
        backfill.message = ""
        await self._change(backfill, State.PENDING)
        self._start(backfill)
        return backfill

    async def remove(self, backfill_id: str) -> Backfill:
        """Cancels it if it has not ended, and forgets it if it has. What it has stored stays.

        Conflict if the configuration keeps it.
        """
        backfill = self.get(backfill_id)
        if backfill.is_kept:
            raise Conflict("The configuration keeps this backfill: pause it, or take it out of there.")
        if backfill.state.has_ended:
            await self._forget(backfill)
        else:
            await self._end(backfill, State.CANCELLED)
        return backfill

    async def _end(self, backfill: Backfill, state: State) -> None:
        await self._stop(backfill)
        # It may have ended by itself while it was told to.
        if backfill.is_over:
            raise Conflict(f"This backfill is {backfill.state} already.")
        await self._change(backfill, state)

    async def _stop(self, backfill: Backfill) -> None:
        backfill.next_ms = None
        task = self._tasks.pop(backfill.id, None)
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _forget(self, backfill: Backfill) -> None:
        await self._storage.delete_job(backfill.id)
        self._jobs.pop(backfill.id, None)

    async def _change(self, backfill: Backfill, state: State) -> None:
        backfill.state = state
        backfill.eta_s = None
        await self._save(backfill)

    async def _save(self, backfill: Backfill) -> None:
        backfill.updated_ms = self._clock.now_ms()
        await self._storage.save_job(backfill.job())

    def _start(self, backfill: Backfill) -> None:
        work = partial(self._once, backfill)
        if backfill.kept is not None:
            work = partial(self._keep, backfill, backfill.kept.every)
        self._tasks[backfill.id] = self._supervisor.run("backfill", work)

    async def _once(self, backfill: Backfill) -> None:
        await self._round(backfill)
        self._tasks.pop(backfill.id, None)

    async def _keep(self, backfill: Backfill, every_ms: int) -> None:
        """Round after round, for ever."""
        while True:
            await self._round(backfill)
            backfill.next_ms = self._clock.now_ms() + every_ms
            await self._clock.sleep_until(backfill.next_ms)
            backfill.next_ms = None

    async def _round(self, backfill: Backfill) -> None:
        async with self._places:
            if not backfill.wanted.repair:
                backfill.brought = Brought()
            await self._change(backfill, State.RUNNING)
            running = self._metrics.backfills_running
            running.inc()
            try:
                await Round(backfill, self._means).run()
            except* MarketdError as failures:
                error = _first(failures)
                backfill.message = error.message
                log.warning("backfill failed id=%s reason=%s", backfill.id, error.message)
                await self._change(backfill, State.FAILED)
            else:
                backfill.message = ""
                await self._change(backfill, State.DONE)
            finally:
                running.dec()


def _first(group: BaseExceptionGroup[MarketdError]) -> MarketdError:
    first = group.exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first
