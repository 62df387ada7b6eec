"""A backfill: what is wanted, how far it is, and how it outlives the process."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import NamedTuple
from uuid import uuid4

import orjson

from marketd.config.kept import KeptConfig
from marketd.domain.instrument import Instrument
from marketd.domain.timeframe import Timeframe
from marketd.domain.timerange import TimeRange
from marketd.storage import Job

KIND = "backfill"


class State(StrEnum):
    """Where a backfill stands."""

    PENDING = "pending"  # waits for its turn
    RUNNING = "running"
    PAUSED = "paused"
    DONE = "done"
    FAILED = "failed"  # it cannot go on; the message says why
    CANCELLED = "cancelled"

    @property
    def has_ended(self) -> bool:
        return self in (State.DONE, State.FAILED, State.CANCELLED)


class Brought(NamedTuple):
    """What a piece has brought: bars, those that were new, those that changed, and how many ranges
    of it cannot be right."""

    bars: int = 0
    inserted: int = 0
    revised: int = 0
    refused: int = 0

    def plus(self, other: Brought) -> Brought:
        """Of both together."""
        return Brought(*map(sum, zip(self, other, strict=True)))


@dataclass(frozen=True, slots=True)
class Wanted:
    """The bars of a series in `span`; with `repair` also what is stored is fetched again."""

    instrument: Instrument
    timeframe: Timeframe
    params: Mapping[str, str]
    span: TimeRange
    repair: bool = False


@dataclass(slots=True)
class Backfill:
    """One backfill. Of its `total_ms` of history, `done_ms` are known.

    Its pace, the time that is left and what it has brought count from when it last began; of a repair,
    what it has brought counts from its beginning: a piece that it was interrupted in is fetched once
    more, and counts as what that finds. One that the configuration keeps (`is_kept`) begins again at
    `next_ms`, over `kept.since` up to the present of then.
    """

    id: str
    wanted: Wanted
    state: State
    created_ms: int
    updated_ms: int
    message: str = ""
    total_ms: int = 0
    done_ms: int = 0
    brought: Brought = field(default_factory=Brought)
    eta_s: float | None = None
    bars_per_s: float = 0.0
    repaired_ms: int | None = None  # from here on, a repair has fetched everything again
    is_kept: bool = False
    kept: KeptConfig | None = None  # how, while the configuration says so
    next_ms: int | None = None
    claim: str = ""  # of whoever works on it

    @property
    def due_ms(self) -> int | None:
        """When it is to be worked on; None if it is not."""
        if self.state in (State.PENDING, State.RUNNING):
            return self.created_ms
        return self.next_ms

    @property
    def is_over(self) -> bool:
        """Nothing of it is to come, unless somebody resumes it."""
        return self.state.has_ended and not self.is_kept

    @property
    def progress(self) -> float:
        """From 0 to 1."""
        if not self.total_ms:
            return float(self.state is State.DONE)
        return self.done_ms / self.total_ms

    @staticmethod
    def new(wanted: Wanted, now_ms: int) -> Backfill:
        """A pending one."""
        return Backfill(uuid4().hex, wanted, State.PENDING, now_ms, now_ms)

    @staticmethod
    def all_kept(config: KeptConfig, now_ms: int) -> Iterator[Backfill]:
        """Those that `config` keeps: pending ones, whose ids are the same after every start."""
        span = config.span(now_ms)
        for what in config.instruments():
            wanted = Wanted(what, config.timeframe, dict(config.params), span)
            name = [what.market, what.provider, what.symbol, str(config.timeframe), config.params]
            made_of = hashlib.sha256(orjson.dumps(name)).hexdigest()
            yield Backfill(
                made_of[:32], wanted, State.PENDING, now_ms, now_ms, is_kept=True, kept=config
            )

    @staticmethod
    def of(job: Job) -> Backfill:
        """The one that `job` keeps."""
        body = orjson.loads(job.body)
        wanted = Wanted(
            Instrument(body["market"], body["provider"], body["symbol"]),
            Timeframe.parse(body["timeframe"]),
            body["params"],
            TimeRange(body["since"], body["before"]),
            body["repair"],
        )
        return Backfill(
            job.id,
            wanted,
            State(job.state),
            job.created_ms,
            job.updated_ms,
            body["message"],
            body["total"],
            body["done"],
            Brought(*body["brought"]),
            eta_s=body.get("eta"),
            bars_per_s=body.get("pace", 0.0),
            repaired_ms=body.get("repaired"),
            is_kept=body.get("kept", False),
            next_ms=job.due_ms if State(job.state).has_ended else None,
            claim=job.claim,
        )

    def job(self) -> Job:
        """What the store keeps of it. Which history it has is kept by the coverage, not here."""
        wanted, what = self.wanted, self.wanted.instrument
        body = {
            "market": what.market,
            "provider": what.provider,
            "symbol": what.symbol,
            "timeframe": str(wanted.timeframe),
            "params": dict(wanted.params),
            "since": wanted.span.start_ms,
            "before": wanted.span.end_ms,
            "repair": wanted.repair,
            "message": self.message,
            "total": self.total_ms,
            "done": self.done_ms,
            "brought": list(self.brought),
            "eta": self.eta_s,
            "pace": self.bars_per_s,
            "repaired": self.repaired_ms,
            "kept": self.is_kept,
        }
        text = orjson.dumps(body).decode()
        times = (self.created_ms, self.updated_ms, self.due_ms)
        return Job(self.id, KIND, self.state, text, *times, self.claim)
