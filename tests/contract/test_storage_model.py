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

from marketd.domain.bar import Bar, same_bar
from marketd.domain.coverage import Covered, Reason, lay
from marketd.domain.errors import StorageFailed
from marketd.domain.instrument import Series
from marketd.domain.timeframe import Timeframe
from marketd.domain.timerange import TimeRange
from marketd.storage import Storage, Stored, StoredBars
from marketd.storage.base import Revision

T = TypeVar("T")

ALL_SERIES = (
    Series(INSTRUMENT, MINUTE),
    Series(INSTRUMENT, Timeframe.parse("1M")),
    Series(INSTRUMENT, MINUTE, "adjustment=raw"),
)

# Few values and few minutes, so that the same bars come again, changed and unchanged.
VALUES = st.sampled_from([1.0, 2.5, None, NAN, math.inf, -math.inf])
SERIES = st.sampled_from(ALL_SERIES)
MINUTES = st.integers(0, 30)
BARS = st.dictionaries(MINUTES, st.tuples(*[VALUES] * 5), max_size=12).map(
    lambda rows: [(START + minute * M, *rows[minute]) for minute in sorted(rows)]
)
RANGES = st.tuples(MINUTES, MINUTES).map(
    lambda ends: TimeRange(START + ends[0] * M, START + ends[1] * M)
)
STATEMENTS = st.tuples(
    RANGES, st.sampled_from([reason for reason in Reason if reason is not Reason.PENDING])
).map(lambda one: Covered(*one[0], one[1]))
WRITES = st.tuples(SERIES, BARS, st.lists(STATEMENTS, max_size=3))


class Model:
    """What a store is, said in the plainest way."""

    def __init__(self) -> None:
        self.bars: dict[Series, dict[int, tuple[Bar, int]]] = {series: {} for series in ALL_SERIES}
        self.coverage: dict[Series, list[Covered]] = {series: [] for series in ALL_SERIES}

    def store(self, series: Series, bars: Sequence[Bar], covered: Sequence[Covered]) -> Stored:
        kept = self.bars[series]
        inserted = 0
        revised: list[Revision] = []
        for bar in bars:
            old = kept.get(bar[0])
            if old is None:
                inserted += 1
                kept[bar[0]] = (bar, 0)
            elif not same_bar(old[0], bar):
                kept[bar[0]] = (bar, old[1] + 1)
                revised.append(Revision(*kept[bar[0]]))
        self.coverage[series] = lay(self.coverage[series], covered)
        return Stored(inserted, revised)

    def read(self, series: Series, span: TimeRange, limit: int, newest: bool) -> StoredBars:
        kept = self.bars[series]
        inside = [kept[t][0] for t in sorted(kept) if span.start_ms <= t < span.end_ms]
        bars = inside[max(0, len(inside) - limit) :] if newest else inside[:limit]
        clipped = [piece.clip(span) for piece in self.coverage[series]]
        return StoredBars(bars, [piece for piece in clipped if not piece.range.is_empty])


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
        assert repr(read) == repr(self.model.read(series, span, limit, newest))

    @rule()
    def reopen(self) -> None:
        self.run(self.storage.close())
        self.open()

    def teardown(self) -> None:
        for series in ALL_SERIES:
            self.read(series, EVER, 1_000, False)
        self.run(self.storage.close())
        self.runner.close()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(work)


def test_a_store_says_what_a_dict_would_say(new_database: Callable[[], Callable[[], Storage]]) -> None:
    run_state_machine_as_test(
        lambda: Comparison(new_database()),  # type: ignore[arg-type]  # any maker of machines will do
        settings=settings(max_examples=30, stateful_step_count=25, deadline=None),
    )
