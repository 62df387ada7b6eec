"""Runs the backfills: newest history first, in the background, whatever happens in between.

What has been fetched is told by the coverage of the store alone, so a backfill that begins again, after
a pause or a restart, asks for nothing twice. Only of a repair it is kept how far it was.

The backfills themselves are in the store, for every node: each is worked on by the node that has
claimed it, and ended, paused or taken up again by any.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import suppress

from marketd.backfill.gate import LoadGate
from marketd.backfill.job import KIND, Backfill, State, Wanted
from marketd.backfill.round import Feeds, History, Means
from marketd.backfill.worker import Worker
from marketd.bus.base import LEASE_MS
from marketd.clock import Clock
from marketd.config.kept import KeptConfig
from marketd.domain.errors import Conflict, LimitExceeded, NotFound, StorageFailed, Superseded
from marketd.metrics import Metrics
from marketd.storage import Job, Storage
from marketd.supervisor import Supervisor, cancel_all

log = logging.getLogger(__name__)

# So many run at once in a node, the others wait; so many are kept, the ended ones until there is need of
# room.
_AT_ONCE = 8
MOST_KEPT = 1_000
# How often claims are renewed, and it is looked what other nodes have left.
_LOOK_S = 1.0
# How many are told of in one go.
_GIVE_WAY = 100


class BackfillManager:
    """Every backfill there is: those of clients, and those that the configuration keeps.

    Between `open` and `close` it works on what no other node has claimed. How another node's backfill
    stands is known as of a second ago. All but `close` raises StorageFailed when the store does.
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
        self._means = Means(history, feeds, gate, metrics)
        self._supervisor = supervisor
        self._clock = clock
        now_ms = clock.now_ms()
        self._kept = {one.id: one for config in kept for one in Backfill.all_kept(config, now_ms)}
        self._workers: dict[str, Worker] = {}
        self._task: asyncio.Task[None] | None = None
        self._is_wanted = asyncio.Event()
        # When those that were last worked on here are due again.
        self._due_ms: dict[str, int] = {}

    async def open(self) -> None:
        """Begins what the configuration keeps, and goes on with what a process before has left."""
        found = {job.id: job for job in await self._storage.jobs(KIND)}
        for job in found.values():
            if job.id not in self._kept and Backfill.of(job).is_kept and not job.claim:
                # The configuration keeps it no more.
                await self._storage.delete_job(job.id)
        for kept in self._kept.values():
            await self._keep(kept, found.get(kept.id))
        self._task = self._supervisor.run("backfills", self._run)

    async def close(self) -> None:
        """Gives back what is worked on, so that other nodes need not wait for the claims to expire."""
        if self._task is not None:
            await cancel_all({self._task})
        workers = list(self._workers.values())
        for worker in workers:
            await self._stop(worker)
        with suppress(TimeoutError):
            # Later than that they have expired by themselves.
            async with asyncio.timeout(LEASE_MS / 1000):
                await asyncio.gather(*(worker.give_back() for worker in workers))

    async def all(self) -> AsyncIterator[Backfill]:
        """The oldest first. Whatever else there is to do comes in between."""
        for number, job in enumerate(await self._storage.jobs(KIND), 1):
            yield self._of(job)
            if number % _GIVE_WAY == 0:
                await asyncio.sleep(0)

    async def get(self, backfill_id: str) -> Backfill:
        """NotFound if there is none with that id."""
        job = await self._storage.job(backfill_id)
        if job is None or job.kind != KIND:
            raise NotFound("There is no backfill with this id.")
        return self._of(job)

    async def add(self, wanted: Wanted) -> Backfill:
        """Begins one. Raises what is wrong with its names, or LimitExceeded if there are too many."""
        await self._feeds.feed_of(wanted)
        every = await self._storage.jobs(KIND)
        over = (job for job in every if job.due_ms is None and State(job.state).has_ended)
        for _ in range(len(every) - MOST_KEPT + 1):
            ended = next(over, None)
            if ended is None:
                raise LimitExceeded(f"There are {MOST_KEPT} backfills under way, which is the most.")
            await self._storage.delete_job(ended.id)
        backfill = Backfill.new(wanted, self._clock.now_ms())
        await self._storage.save_job(backfill.job())
        self._is_wanted.set()
        return backfill

    async def pause(self, backfill_id: str) -> Backfill:
        """Stops it until `resume`; Conflict if it has ended."""
        return await self._set(backfill_id, State.PAUSED, unless=lambda one: one.is_over)

    async def resume(self, backfill_id: str) -> Backfill:
        """Goes on with a paused one, or tries a failed or cancelled one again; else Conflict."""
        stands = (State.PAUSED, State.FAILED, State.CANCELLED)
        backfill = await self._set(
            backfill_id, State.PENDING, unless=lambda one: one.state not in stands
        )
        self._is_wanted.set()
        return backfill

    async def remove(self, backfill_id: str) -> Backfill:
        """Cancels it if it has not ended, and forgets it if it has. What it has stored stays.

        Conflict if the configuration keeps it.
        """
        backfill = await self.get(backfill_id)
        if backfill.is_kept:
            raise Conflict("The configuration keeps this backfill: pause it, or take it out of there.")
        if backfill.state.has_ended:
            await self._storage.delete_job(backfill_id)
            return backfill
        return await self._set(backfill_id, State.CANCELLED, unless=lambda one: one.is_over)

    async def _set(
        self, backfill_id: str, state: State, *, unless: Callable[[Backfill], bool]
    ) -> Backfill:
        """Puts it into a state; whoever works on it, here or elsewhere, has lost it by that."""
        while True:
            backfill = await self.get(backfill_id)
            if unless(backfill):
                raise Conflict(f"This backfill is {backfill.state} already.")
            if backfill_id in self._workers:
                await self._stop(self._workers[backfill_id])
            if state is State.PENDING:
                backfill.message = ""
            backfill.state, backfill.eta_s, backfill.next_ms = state, None, None
            backfill.updated_ms = self._clock.now_ms()
            try:
                await self._storage.save_job(backfill.job())
            except Superseded:
                # It has ended, or another node has begun it, since it was looked at.
                continue
            backfill.claim = ""
            return backfill

    async def _keep(self, backfill: Backfill, found: Job | None) -> None:
        """Has it begin anew, unless it is paused or another node is at it."""
        if found is not None:
            if found.claim:
                return
            backfill.created_ms = found.created_ms
            if found.state == State.PAUSED:
                backfill.state = State.PAUSED
        try:
            await self._storage.save_job(backfill.job())
        except Superseded:
            log.info("backfill begun by another node id=%s", backfill.id)

    async def _run(self) -> None:
        """Works on what is due and free, for ever."""
        while True:
            self._is_wanted.clear()
            try:
                await asyncio.gather(*(worker.renew() for worker in self._workers.values()))
                await self._claim()
            except StorageFailed as error:
                # Of its fault the store tells itself; what is claimed here may be another's by then.
                log.debug("backfills not claimed reason=%s", error.message)
            await self._rest()

    async def _claim(self) -> None:
        """Begins as much of what is due and free as there are places."""
        places = _AT_ONCE - len(self._workers)
        if not places:
            return
        claimed = await self._storage.claim_jobs(
            KIND, now_ms=self._clock.now_ms(), most=places, lease_ms=LEASE_MS
        )
        for job in claimed:
            backfill = self._of(job)
            if backfill.is_kept and backfill.kept is None:
                # The configuration keeps it no more.
                await self._storage.delete_job(job.id)
                continue
            worker = Worker(
                backfill, self._means, storage=self._storage, clock=self._clock, ended=self._ended
            )
            self._workers[job.id] = worker
            worker.task = self._supervisor.run("backfill", worker.run)

    def _ended(self, worker: Worker) -> None:
        """There is a place for another one."""
        if self._workers.get(worker.backfill.id) is worker:
            del self._workers[worker.backfill.id]
        if worker.backfill.next_ms is not None:
            self._due_ms[worker.backfill.id] = worker.backfill.next_ms
        self._is_wanted.set()

    async def _stop(self, worker: Worker) -> None:
        await worker.stop()
        self._workers.pop(worker.backfill.id, None)

    def _of(self, job: Job) -> Backfill:
        """The backfill that `job` keeps, as it is known here."""
        worker = self._workers.get(job.id)
        if worker is not None and worker.backfill.claim == job.claim:
            return worker.backfill
        backfill = Backfill.of(job)
        if job.id in self._kept:
            backfill.kept = self._kept[job.id].kept
        return backfill

    async def _rest(self) -> None:
        """Until something has changed, or is due, or it is time to look again."""
        alarm = asyncio.create_task(self._alarm())
        try:
            async with asyncio.timeout(_LOOK_S):
                await self._is_wanted.wait()
        except TimeoutError:
            return
        finally:
            await cancel_all({alarm})

    async def _alarm(self) -> None:
        """Has it looked as soon as what was worked on here is due again."""
        now_ms = self._clock.now_ms()
        self._due_ms = {name: due_ms for name, due_ms in self._due_ms.items() if due_ms > now_ms}
        if self._due_ms:
            await self._clock.sleep_until(min(self._due_ms.values()))
            self._is_wanted.set()
