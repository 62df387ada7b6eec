"""The contract of a store. `tests/contract` holds every backend to it, sentence by sentence.

A store keeps, for each series, its closed bars and its coverage: range by range, what is known of it.
It never decides what a range means; whoever stores says what the bars prove. Beside them it keeps the
trades of instruments, the jobs of the daemon, and coarser bars computed ahead of the questions.
"""

from __future__ import annotations

import logging
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from enum import StrEnum
from pathlib import Path

from marketd.domain.bar import Bar, Tick
from marketd.domain.coverage import Covered
from marketd.domain.errors import Unsupported
from marketd.domain.instrument import Instrument, Series
from marketd.domain.timeframe import Timeframe
from marketd.domain.timerange import TimeRange
from marketd.storage.records import (
    AddedTicks,
    Change,
    Changed,
    Checkup,
    Job,
    NumberedTick,
    QueryPlan,
    Revised,
    Stored,
    StoredBars,
    StoredTicks,
)

log = logging.getLogger(__name__)


class Fault(StrEnum):
    """Why a database takes no writes."""

    FULL = "full"  # its disk is
    READ_ONLY = "read_only"
    IO = "io"  # its disk fails, or takes no larger file
    AWAY = "away"
    OTHER = "other"


class Storage(ABC):
    """What has to survive a restart. Every method raises StorageFailed when the database does."""

    def __init__(self) -> None:
        self.lacks: Sequence[str] = ()
        """Sentences that say what this database does without, known once it is open."""
        self.fault = ""
        """Why writing fails at present, in a sentence; empty while it works. Reading may still work."""
        self.identity = ""
        """Tells this database from any other, once it is open; empty if it is for one process alone."""
        self._failed_s = 0.0
        self._failing_since_s = 0.0
        self._listeners: list[Changed] = []
        self._watchers: list[Callable[[Fault], None]] = []

    def listen(self, changed: Changed) -> None:
        """Calls `changed` with every write that made or revised bars, before `store` returns.

        Also with one whose caller was cancelled. Who listens before the store is opened hears, a
        moment later, of those of other processes that share the database, too; None says that some
        may have been missed: any bar may have changed. It is called in the loop; a change may be told
        twice.
        """
        self._listeners.append(changed)

    def _tell(self, change: Change | None) -> None:
        for changed in self._listeners:
            changed(change)

    def watch(self, began: Callable[[Fault], None]) -> None:
        """Calls `began`, in the loop, whenever writing begins to fail."""
        self._watchers.append(began)

    @property
    def failed_s(self) -> float:
        """How long writing has failed since the start, in seconds, up to now if it fails at present."""
        return self._failed_s + (time.monotonic() - self._failing_since_s if self.fault else 0)

    def _set_fault(self, sentence: str, fault: Fault = Fault.OTHER) -> None:
        """Says that writing fails, or with an empty sentence that it works."""
        failed_s = self.failed_s
        was, self.fault = self.fault, sentence
        if sentence and not was:
            self._failing_since_s = time.monotonic()
            log.error("writing stopped reason=%s", sentence)
            for began in self._watchers:
                began(fault)
        elif was and not sentence:
            self._failed_s = failed_s
            log.info("writing goes on again")

    # Life

    @abstractmethod
    async def open(self) -> None:
        """Takes ownership and brings the schema up to date. StorageLocked if another process owns it."""

    @abstractmethod
    async def close(self) -> None:
        """Ends what is under way and releases the store. Allowed at any time, also twice."""

    @abstractmethod
    async def probe(self) -> None:
        """Writes something that changes nothing, durably: ends a `fault` that is over.

        Any write that succeeds ends it too; this is for when nobody has anything to write.
        """

    # Bars and coverage

    @abstractmethod
    async def store(
        self,
        series: Series,
        bars: Sequence[Bar],
        covered: Sequence[Covered],
        *,
        at_ms: int,
        fence: int | None = None,
    ) -> Stored:
        """Upserts `bars` and lays `covered` (oldest first) over the coverage, in one transaction.

        Durable when it returns, and all or nothing. The same bars stored again change nothing; a bar
        that differs replaces the old one as its next revision, changed at `at_ms`. `bars` ascends and
        is valid. Coverage becomes what `domain.coverage.lay` says: the newest statement wins, but what
        is no proof never replaces a proof. A caller that is cancelled does not learn the outcome, but
        there is one: all or none. With a `fence`, which is of `lead`, it raises Superseded and changes
        nothing once there is a later one.
        """

    @abstractmethod
    async def read(
        self, series: Series, span: TimeRange, *, limit: int, newest: bool = False
    ) -> StoredBars:
        """The first (or, `newest`, the last) `limit` bars of `span`, and the coverage of `span`.

        Where there are `limit` bars the coverage may end with what they speak of (`reach_of`): a page
        of a long series does not read all that is known of it.
        """

    @abstractmethod
    async def revised(self, series: Series, *, after: int, limit: int) -> Revised:
        """The bars with the `limit` latest changes of those numbered above `after`.

        A change is a bar that differs from the one stored before, or that is new where something was
        known already: whoever has read the series before lacks it. The changes of a series are numbered
        1, 2 …, those of one write alike or in order, and what is numbered later is committed later. What
        is committed meanwhile may be among the bars, and its number is not given then.
        """

    @abstractmethod
    async def series_list(self) -> list[Series]:
        """Every series of which anything was ever stored, in the order of their first writes."""

    async def lead(self, what: Series | Instrument) -> int:
        """Makes the caller the leader of a series, or of an instrument's trades.

        Gives its fence, greater than any before.

        When it returns no write with an earlier one is under way, and none will succeed.
        """
        raise Unsupported("A database file has one owner, and no leader.")

    # Bars computed ahead

    @abstractmethod
    async def aggregate(
        self, base: Series, timeframe: Timeframe, span: TimeRange, *, limit: int, newest: bool = False
    ) -> list[Bar]:
        """The first (or, `newest`, the last) `limit` bars of `timeframe` that open in `span`.

        They are what `domain.resample.resample` gives for the stored bars of `base` in the buckets that
        lie whole in `span`, however they are come by. The timeframe of `base` tiles `timeframe`. Whether
        a bucket is complete is for the caller to know, by the coverage.
        """

    @abstractmethod
    async def refresh(self, base: Series | None = None, span: TimeRange | None = None) -> int:
        """Brings up to date now what is computed ahead: of one series or all, where `span` says.

        Gives the number of buckets computed. Nothing is wrong without it: what is out of date is never
        read. A caller that is cancelled leaves a part of it done.
        """

    # Trades

    @abstractmethod
    async def store_ticks(
        self,
        instrument: Instrument,
        ticks: Sequence[Tick],
        covered: Sequence[Covered] = (),
        *,
        fence: int | None = None,
    ) -> AddedTicks:
        """Adds those of `ticks` that are new, in one transaction, and gives them in their order.

        Durable when it returns, and all or nothing. `covered` (oldest first) is laid over what is known
        of the instrument's trades, as with bars. `ticks` ascends by time; prices and sizes are finite.
        A trade with an id is the same as one with that id in its millisecond. Without an id it is told
        apart from those that are equal in everything by its place among them in the call: so the same
        batch (of whole milliseconds) stored again changes nothing, and equal trades in one batch are
        that many trades. With a `fence`, which is of `lead`, it raises Superseded and changes nothing
        once there is a later one.
        """

    @abstractmethod
    async def read_ticks(
        self, instrument: Instrument, span: TimeRange, *, limit: int, newest: bool = False
    ) -> StoredTicks:
        """The first (or, `newest`, the last) `limit` trades of `span`, and the coverage of `span`.

        Within a millisecond they are in the order in which they were stored. Where there are `limit`
        trades the coverage may end with what they speak of (`reach_of_ticks`).
        """

    async def ticks_after(
        self, instrument: Instrument, number: int, *, until: int, limit: int
    ) -> list[NumberedTick]:
        """The first `limit` trades with numbers above `number` up to `until`, in this order.

        In a store for several processes the trades of an instrument are numbered as they are stored:
        what is numbered later is committed later.
        """
        raise Unsupported("A database file has one owner, who knows what is stored.")

    @abstractmethod
    async def drop_ticks(self, before_ms: int) -> int:
        """Deletes every trade before a time, in small steps, and gives their number.

        With them goes what was known of that time.
        """

    # Jobs

    @abstractmethod
    async def save_job(self, job: Job, *, lease_ms: int = 0) -> None:
        """Keeps `job`, new or in place of the one with the same id. Durable when it returns.

        A claim goes on for `lease_ms` from now, or ends if that is 0. Raises Superseded, and changes
        nothing, where the job is claimed otherwise than `job.claim` says, or is gone while that is not
        empty.
        """

    @abstractmethod
    async def claim_jobs(self, kind: str, *, now_ms: int, most: int, lease_ms: int) -> list[Job]:
        """Claims up to `most` jobs of `kind` that are due at `now_ms`, the longest due first.

        Each gets a new claim. Nobody else can claim it for `lease_ms`, by the database's own clock, or
        until it is saved without a lease. Whoever had claimed it before is superseded by that.
        """

    @abstractmethod
    async def job(self, job_id: str) -> Job | None:
        """One job; None if there is none with that id."""

    @abstractmethod
    async def jobs(self, kind: str) -> list[Job]:
        """Every job of `kind`, the oldest first by `created_ms`, then by id."""

    @abstractmethod
    async def delete_job(self, job_id: str) -> None:
        """Forgets a job; one that is not there is fine."""

    # Upkeep: what a backend leaves out is done with the tools of its database

    async def check(self) -> Checkup:
        """Whether the database is sound. Reading and writing go on meanwhile."""
        raise Unsupported("This database is checked with its own tools.")

    async def back_up(self, target: Path, *, replace: bool) -> None:
        """Copies everything, as of one instant, into the file `target`, for its owner alone.

        The file is there as a whole or not at all. Conflict where there is one already, unless it is
        to be replaced. Reading and writing go on meanwhile.
        """
        raise Unsupported("This database is backed up with its own tools.")

    async def profile(self) -> list[QueryPlan]:
        """How each of the store's statements is run over what is stored; those that read are timed."""
        raise Unsupported("This database is profiled with its own tools.")
