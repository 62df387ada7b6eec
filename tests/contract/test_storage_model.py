"""A store against a dict: whatever is done to both in whatever order, they say the same."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Coroutine, Sequence
from typing import Any, TypeVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test
from pages import EVER, NAN, UNSTORABLE
from scripted import INSTRUMENT, MINUTE, START, M

from marketd.domain.bar import Bar, Tick, open_time, same_bar
from marketd.domain.coverage import Covered, Reason, lay
from marketd.domain.errors import StorageFailed, Superseded
from marketd.domain.instrument import Instrument, Series
from marketd.domain.resample import resample
from marketd.domain.timeframe import Timeframe
from marketd.domain.timerange import TimeRange
from marketd.storage import Job, Storage, Stored, StoredBars
from marketd.storage.records import Revision, reach_of

T = TypeVar("T")

ALL_SERIES = (
    Series(INSTRUMENT, MINUTE),
    Series(INSTRUMENT, Timeframe.parse("1M")),
    Series(INSTRUMENT, MINUTE, "adjustment=raw"),
)

# Few values and few minutes, so that the same bars come again, changed and unchanged.
VALUES = st.sampled_from([1.0, 2.5, None, NAN, math.inf, -math.inf])
SERIES = st.sampled_from(ALL_SERIES)
MINUTES = st.integers(0, 30).map(lambda n: n * 13)
BARS = st.dictionaries(MINUTES, st.tuples(*[VALUES] * 5), max_size=12).map(
    lambda rows: [(START + minute * M, *rows[minute]) for minute in sorted(rows)]
)
RANGES = st.tuples(MINUTES, MINUTES).map(
    lambda ends: TimeRange(START + ends[0] * M, START + ends[1] * M)
)
STATEMENTS = st.tuples(
    RANGES, st.sampled_from([reason for reason in Reason if reason is not Reason.PENDING])
).map(lambda one: Covered(*one[0], one[1]))
SPANS = st.one_of(RANGES, st.just(EVER))
TICKS = st.lists(
    st.tuples(
        st.integers(0, 5).map(lambda ms: START + ms),
        st.sampled_from([1.0, 2.5]),
        st.just(0.5),
        st.sampled_from(["buy", ""]),
        st.sampled_from(["", "", "7", "8"]),
    ),
    max_size=8,
).map(lambda ticks: sorted(ticks, key=open_time))
INSTRUMENTS = st.sampled_from([INSTRUMENT, Instrument("crypto", "test", "ETH/USD")])
NUMBERS = st.integers(0, 3)
LEASE_MS = 600_000
JOBS = st.builds(
    Job,
    *(
        st.sampled_from(words)
        for words in (["a", "b", "c"], ["one", "two"], ["new", "done"], ["{}", "1"])
    ),
    NUMBERS,
    NUMBERS,
    st.none() | NUMBERS,
    st.just(""),
)
WRITES = st.tuples(SERIES, BARS, st.lists(STATEMENTS, max_size=3))


class Model:
    """What a store is, said in the plainest way."""

    def __init__(self) -> None:
        self.bars: dict[Series, dict[int, tuple[Bar, int]]] = {series: {} for series in ALL_SERIES}
        self.listed: dict[Series, None] = {}
        self.ticks: dict[Instrument, list[Tick]] = {}
        self.jobs: dict[str, Job] = {}
        self.coverage: dict[Series, list[Covered]] = {series: [] for series in ALL_SERIES}

    def store(self, series: Series, bars: Sequence[Bar], covered: Sequence[Covered]) -> Stored:
        self.listed[series] = None
        kept = self.bars[series]
        inserted = late = 0
        revised: list[Revision] = []
        for bar in bars:
            old = kept.get(bar[0])
            if old is None:
                inserted += 1
                late += any(one.start_ms <= bar[0] < one.end_ms for one in self.coverage[series])
                kept[bar[0]] = (bar, 0)
            elif not same_bar(old[0], bar):
                kept[bar[0]] = (bar, old[1] + 1)
                revised.append(Revision(*kept[bar[0]]))
        self.coverage[series] = lay(self.coverage[series], covered)
        return Stored(inserted, revised, late)

    def read(self, series: Series, span: TimeRange, limit: int, newest: bool) -> StoredBars:
        kept = self.bars[series]
        inside = [kept[t][0] for t in sorted(kept) if span.start_ms <= t < span.end_ms]
        bars = inside[max(0, len(inside) - limit) :] if newest else inside[:limit]
        clipped = [piece.clip(span) for piece in self.coverage[series]]
        return StoredBars(bars, [piece for piece in clipped if not piece.range.is_empty])

    def aggregate(
        self, base: Series, timeframe: Timeframe, span: TimeRange, limit: int, newest: bool
    ) -> list[Bar]:
        whole = TimeRange(timeframe.ceil(span.start_ms), timeframe.floor(span.end_ms))
        bars = resample(self.read(base, whole, 1_000, False).bars, timeframe)
        return bars[max(0, len(bars) - limit) :] if newest else bars[:limit]

    def store_ticks(self, instrument: Instrument, ticks: Sequence[Tick]) -> list[Tick]:
        kept = self.ticks.setdefault(instrument, [])
        before = list(kept)
        new = []
        for n, tick in enumerate(ticks):
            if tick[4]:
                known = any((old[0], old[4]) == (tick[0], tick[4]) for old in kept)
            else:
                known = ticks[: n + 1].count(tick) <= before.count(tick)
            if not known:
                kept.append(tick)
                new.append(tick)
        kept.sort(key=open_time)
        return new

    def read_ticks(
        self, instrument: Instrument, span: TimeRange, limit: int, newest: bool
    ) -> list[Tick]:
        inside = [one for one in self.ticks.get(instrument, ()) if span[0] <= one[0] < span[1]]
        return inside[max(0, len(inside) - limit) :] if newest else inside[:limit]

    def drop_ticks(self, before_ms: int) -> int:
        old = sum(one[0] < before_ms for ticks in self.ticks.values() for one in ticks)
        for ticks in self.ticks.values():
            ticks[:] = [one for one in ticks if one[0] >= before_ms]
        return old


def within(read: StoredBars, reach: TimeRange) -> StoredBars:
    """The bars with the coverage of `reach`."""
    clipped = [piece.clip(reach) for piece in read.coverage]
    return StoredBars(read.bars, [piece for piece in clipped if not piece.range.is_empty])


class Comparison(RuleBasedStateMachine):
    """Does the same to a store and to the model, and compares every answer."""

    def __init__(self, database: Callable[[], Storage]) -> None:
        super().__init__()
        self.database = database
        self.runner = asyncio.Runner()
        self.model = Model()

    @initialize()
    def open(self) -> None:
        self.storage = self.database()
        self.run(self.storage.open())

    @rule(write=WRITES)
    def store(self, write: tuple[Series, list[Bar], list[Covered]]) -> None:
        stored = self.run(self.storage.store(*write, at_ms=START))
        assert repr(stored) == repr(self.model.store(*write))

    @rule(writes=st.lists(WRITES, min_size=2, max_size=4, unique_by=lambda write: write[0]))
    def store_at_once(self, writes: list[tuple[Series, list[Bar], list[Covered]]]) -> None:
        async def store_all() -> list[Stored]:
            return await asyncio.gather(*(self.storage.store(*write, at_ms=START) for write in writes))

        assert repr(self.run(store_all())) == repr([self.model.store(*write) for write in writes])

    @rule(write=WRITES)
    def fail_to_store(self, write: tuple[Series, list[Bar], list[Covered]]) -> None:
        series, bars, covered = write
        with pytest.raises(StorageFailed):
            self.run(self.storage.store(series, [*bars, UNSTORABLE], covered, at_ms=START))

    @rule(series=SERIES, span=RANGES, limit=st.integers(0, 32), newest=st.booleans())
    def read(self, series: Series, span: TimeRange, limit: int, newest: bool) -> None:
        read = self.run(self.storage.read(series, span, limit=limit, newest=newest))
        wanted = self.model.read(series, span, limit, newest)
        # The coverage may end with what the bars speak of.
        reach = reach_of(wanted.bars, series.timeframe, span, limit=limit, newest=newest)
        assert repr(within(read, reach)) == repr(within(wanted, reach))

    @rule(
        base=st.sampled_from([ALL_SERIES[0], ALL_SERIES[2]]),
        timeframe=st.sampled_from(["5m", "1h", "4h", "1d", "1w"]).map(Timeframe.parse),
        span=SPANS,
        limit=st.integers(0, 20),
        newest=st.booleans(),
    )
    def aggregate(
        self, base: Series, timeframe: Timeframe, span: TimeRange, limit: int, newest: bool
    ) -> None:
        found = self.run(self.storage.aggregate(base, timeframe, span, limit=limit, newest=newest))
        assert repr(found) == repr(self.model.aggregate(base, timeframe, span, limit, newest))

    @rule(base=st.none() | SERIES, span=st.none() | RANGES)
    def refresh(self, base: Series | None, span: TimeRange | None) -> None:
        assert self.run(self.storage.refresh(base, span)) >= 0

    @rule(instrument=INSTRUMENTS, ticks=TICKS)
    def store_ticks(self, instrument: Instrument, ticks: list[Tick]) -> None:
        new = self.run(self.storage.store_ticks(instrument, ticks)).ticks
        assert new == self.model.store_ticks(instrument, ticks)

    @rule(
        instrument=INSTRUMENTS,
        ends=st.tuples(st.integers(0, 6), st.integers(0, 6)),
        limit=st.integers(0, 9),
        newest=st.booleans(),
    )
    def read_ticks(
        self, instrument: Instrument, ends: tuple[int, int], limit: int, newest: bool
    ) -> None:
        span = TimeRange(START + ends[0], START + ends[1])
        found = self.run(self.storage.read_ticks(instrument, span, limit=limit, newest=newest))
        assert found.ticks == self.model.read_ticks(instrument, span, limit, newest)

    @rule(ms=st.integers(0, 6))
    def drop_ticks(self, ms: int) -> None:
        assert self.run(self.storage.drop_ticks(START + ms)) == self.model.drop_ticks(START + ms)

    @rule(job=JOBS, goes_on=st.booleans())
    def save_job(self, job: Job, goes_on: bool) -> None:
        claim = self.model.jobs[job.id].claim if job.id in self.model.jobs else ""
        if claim:
            with pytest.raises(Superseded):
                self.run(self.storage.save_job(job))
        lease_ms = LEASE_MS if goes_on else 0
        self.run(self.storage.save_job(job._replace(claim=claim), lease_ms=lease_ms))
        self.model.jobs[job.id] = job._replace(claim=claim if goes_on else "")

    @rule(kind=st.sampled_from(["one", "two"]), now_ms=NUMBERS, most=st.integers(1, 3))
    def claim_jobs(self, kind: str, now_ms: int, most: int) -> None:
        claimed = self.run(self.storage.claim_jobs(kind, now_ms=now_ms, most=most, lease_ms=LEASE_MS))
        due = [
            (job.due_ms, job.created_ms, job)
            for job in self.model.jobs.values()
            if job.kind == kind and not job.claim and job.due_ms is not None and job.due_ms <= now_ms
        ]
        wanted = [job for *_, job in sorted(due)[:most]]
        assert [job._replace(claim="") for job in claimed] == wanted
        for job in claimed:
            assert job.claim
            self.model.jobs[job.id] = job

    @rule(job=JOBS)
    def delete_job(self, job: Job) -> None:
        self.run(self.storage.delete_job(job.id))
        self.model.jobs.pop(job.id, None)

    @rule(kind=st.sampled_from(["one", "two"]))
    def read_jobs(self, kind: str) -> None:
        kept = [job for job in self.model.jobs.values() if job.kind == kind]
        assert self.run(self.storage.jobs(kind)) == sorted(
            kept, key=lambda job: (job.created_ms, job.id)
        )

    @rule()
    def list_series(self) -> None:
        assert self.run(self.storage.series_list()) == list(self.model.listed)

    @rule()
    def probe(self) -> None:
        self.run(self.storage.probe())
        assert self.storage.fault == ""

    @rule()
    def reopen(self) -> None:
        self.run(self.storage.close())
        self.open()
        # A file's next owner finds nothing claimed; a server keeps what others may have claimed.
        for kind in ("one", "two"):
            for job in self.run(self.storage.jobs(kind)):
                assert job.claim in ("", self.model.jobs[job.id].claim)
                self.model.jobs[job.id] = self.model.jobs[job.id]._replace(claim=job.claim)

    def teardown(self) -> None:
        for series in ALL_SERIES:
            self.read(series, EVER, 1_000, False)
        self.list_series()
        self.run(self.storage.close())
        self.runner.close()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(work)


def test_a_store_says_what_a_dict_would_say(
    new_database: Callable[[], Callable[[], Storage]], examples: Callable[[int], int]
) -> None:
    run_state_machine_as_test(
        lambda: Comparison(new_database()),  # type: ignore[arg-type]  # any maker of machines will do
        settings=settings(max_examples=examples(30), stateful_step_count=40),
    )
