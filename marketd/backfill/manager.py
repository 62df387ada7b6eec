"""Runs the backfills: newest history first, in the background, whatever happens in between.

What has been fetched is told by the coverage of the store alone, so a backfill that begins again, after
a pause or a restart, asks for nothing twice.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Iterator
from functools import partial
from typing import Protocol, TypeVar

from marketd.backfill.gaps import chunks
from marketd.backfill.gate import LoadGate
from marketd.backfill.job import KIND, Backfill, Brought, State, Wanted
from marketd.clock import Clock
from marketd.domain.coverage import Gap
from marketd.domain.errors import (
    Conflict,
    LimitExceeded,
    MarketdError,
    NotFound,
    NotReady,
    ProviderFailed,
    StorageFailed,
)
from marketd.domain.timerange import TimeRange, merge
from marketd.metrics import Metrics
from marketd.plugins.feed import Feed
from marketd.storage import Storage
from marketd.supervisor import Supervisor

log = logging.getLogger(__name__)

T = TypeVar("T")

# So many run at once, the others wait; so many are kept, the ended ones until there is need of room.
_AT_ONCE = 8
MOST_KEPT = 1_000
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 60.0


class History(Protocol):
    """What a backfill needs of the past. Each raises ProviderFailed, NotReady or StorageFailed."""

    async def gaps(self, feed: Feed, span: TimeRange) -> list[Gap]:
        """What of `span` is not proven; asks nobody."""

    async def fill(self, feed: Feed, span: TimeRange) -> Brought:
        """Fetches and stores what `span` lacks, as background work."""

    async def fetch_again(self, feed: Feed, span: TimeRange) -> Brought:
        """Fetches and stores all of `span`, also what is there, as background work."""


class Feeds(Protocol):
    """Who knows the series by their names."""

    async def feed_of(self, wanted: Wanted) -> Feed:
        """The base series that `wanted` is of. NotFound, Unsupported or InvalidInput if none is."""


class BackfillManager:
    """Every backfill there is. `open` takes up those that a former process has left."""

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
    ) -> None:
        self._storage = storage
        self._history = history
        self._feeds = feeds
        self._gate = gate
        self._supervisor = supervisor
        self._clock = clock
        self._metrics = metrics
        self._jobs: dict[str, Backfill] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._places = asyncio.Semaphore(_AT_ONCE)

    async def open(self) -> None:
        """Goes on with what was under way when the process before ended."""
        for job in await self._storage.jobs(KIND):
            backfill = self._jobs[job.id] = Backfill.of(job)
            if not backfill.state.has_ended and backfill.state is not State.PAUSED:
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
            ended = next((one for one in self._jobs.values() if one.state.has_ended), None)
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
        backfill.message = ""
        await self._change(backfill, State.PENDING)
        self._start(backfill)
        return backfill

    async def remove(self, backfill_id: str) -> Backfill:
        """Cancels it if it has not ended, and forgets it if it has. What it has stored stays."""
        backfill = self.get(backfill_id)
        if backfill.state.has_ended:
            await self._forget(backfill)
        else:
            await self._end(backfill, State.CANCELLED)
        return backfill

    async def _end(self, backfill: Backfill, state: State) -> None:
        task = self._tasks.pop(backfill.id, None)
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        # It may have ended by itself while it was told to.
        if backfill.state.has_ended:
            raise Conflict(f"This backfill is {backfill.state} already.")
        await self._change(backfill, state)

    async def _forget(self, backfill: Backfill) -> None:
        await self._storage.delete_job(backfill.id)
        self._jobs.pop(backfill.id, None)

    async def _change(self, backfill: Backfill, state: State) -> None:
        backfill.state = state
        backfill.eta_s = None
        backfill.updated_ms = self._clock.now_ms()
        await self._storage.save_job(backfill.job())

    def _start(self, backfill: Backfill) -> None:
        self._tasks[backfill.id] = self._supervisor.run("backfill", partial(self._run, backfill))

    async def _run(self, backfill: Backfill) -> None:
        async with self._places:
            await self._change(backfill, State.RUNNING)
            running = self._metrics.backfills_running
            running.inc()
            try:
                feed = await self._insist(backfill, lambda: self._feeds.feed_of(backfill.wanted))
                with feed.provider.lease():
                    await self._fill(backfill, feed)
            except* MarketdError as failures:
                error = _first(failures)
                backfill.message = error.message
                log.warning("backfill failed id=%s reason=%s", backfill.id, error.message)
                await self._change(backfill, State.FAILED)
            else:
                await self._change(backfill, State.DONE)
            finally:
                running.dec()
        self._tasks.pop(backfill.id, None)

    async def _fill(self, backfill: Backfill, feed: Feed) -> None:
        wanted = backfill.wanted
        settled = TimeRange(feed.life.start_ms, min(feed.life.end_ms, feed.present().settled_end_ms))
        timeframe = feed.series.timeframe
        span = TimeRange(timeframe.floor(wanted.span.start_ms), timeframe.ceil(wanted.span.end_ms))
        span = span.clip(settled)
        missing = [] if span.is_empty else [span]
        if missing and not wanted.repair:
            gaps = await self._insist(backfill, lambda: self._history.gaps(feed, span))
            missing = merge(gap.range for gap in gaps)
        backfill.total_ms = max(0, span.end_ms - span.start_ms)
        left_ms = sum(piece.end_ms - piece.start_ms for piece in missing)
        backfill.done_ms = backfill.total_ms - left_ms
        backfill.brought = Brought()
        pace = _Pace(backfill)
        pieces = chunks(missing, timeframe, feed.provider.plugin.page_limit)
        async with asyncio.TaskGroup() as group:
            for _ in range(max(1, feed.provider.plugin.concurrency - 1)):
                group.create_task(self._take(backfill, feed, pieces, pace))

    async def _take(
        self, backfill: Backfill, feed: Feed, pieces: Iterator[TimeRange], pace: _Pace
    ) -> None:
        """Fetches piece after piece; several do so at once, out of the same `pieces`."""
        how = self._history.fetch_again if backfill.wanted.repair else self._history.fill
        for piece in pieces:
            brought = await self._insist(backfill, partial(how, feed, piece))
            backfill.message = ""
            self._metrics.backfill_chunks.labels(feed.provider.name).inc()
            pace.went(piece, brought)

    async def _insist(self, backfill: Backfill, work: Callable[[], Awaitable[T]]) -> T:
        """What `work` gives, however long it fails in a way that passes."""
        pause_s = _FIRST_PAUSE_S
        while True:
            await self._gate.passed()
            try:
                return await work()
            except (ProviderFailed, NotReady, StorageFailed) as error:
                if isinstance(error, ProviderFailed) and not error.transient:
                    raise
                backfill.message = error.message
            await asyncio.sleep(random.uniform(pause_s / 2, pause_s))  # noqa: S311 - jitter
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)


class _Pace:
    """How fast a backfill goes, since it began this time."""

    def __init__(self, backfill: Backfill) -> None:
        self._backfill = backfill
        self._loop = asyncio.get_running_loop()
        self._began_s = self._loop.time()
        self._had_ms = backfill.done_ms

    def went(self, piece: TimeRange, brought: Brought) -> None:
        """One more piece is there."""
        one = self._backfill
        one.done_ms += piece.end_ms - piece.start_ms
        one.brought = one.brought.plus(brought)
        took_s = max(self._loop.time() - self._began_s, 1e-6)
        one.bars_per_s = one.brought.bars / took_s
        one.eta_s = took_s * (one.total_ms - one.done_ms) / (one.done_ms - self._had_ms)


def _first(group: BaseExceptionGroup[MarketdError]) -> MarketdError:
    first = group.exceptions[0]
    return _first(first) if isinstance(first, BaseExceptionGroup) else first
