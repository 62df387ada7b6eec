"""Reads by way of caches: whatever was written meanwhile, the same as without them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine, Sequence
from pathlib import Path
from typing import Any, TypeVar
from uuid import uuid4

import pytest
import redis
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test
from redis_server import RedisServer
from scripted import INSTRUMENT, MINUTE, START, M

from marketd.cache import BarCache, MemoryCache
from marketd.cache.redis import RedisCache
from marketd.domain.bar import Bar
from marketd.domain.coverage import Covered, Reason, proven
from marketd.domain.instrument import Series
from marketd.domain.timerange import TimeRange
from marketd.market.stored import StoredRead, StoredReads
from marketd.metrics import Metrics
from marketd.storage import Change, StoredBars
from marketd.storage.records import Changed, reach_of
from marketd.storage.sqlite import SQLiteStorage

T = TypeVar("T")

SERIES = Series(INSTRUMENT, MINUTE)
OTHER = Series(INSTRUMENT, MINUTE, "adjustment=raw")
DAY = 1440
EVER = TimeRange(START - DAY * M, START + 3 * DAY * M)

# Ends of ranges near the ends of buckets, which are four hours long, and elsewhere.
MINUTES = st.one_of(
    st.integers(0, 12).map(lambda bucket: bucket * 240),
    st.tuples(st.integers(0, 12), st.integers(-2, 2)).map(lambda at: max(0, at[0] * 240 + at[1])),
    st.integers(0, 2 * DAY),
)
RANGES = st.tuples(MINUTES, MINUTES).map(lambda ends: minutes(min(ends), max(ends)))
VALUES = st.sampled_from([101.0, 102.5, None, float("nan"), float("inf")])
PAGES = st.tuples(MINUTES, st.integers(1, 700), st.sampled_from([1, 1, 2, 97]), VALUES).map(
    lambda page: [_bar(minute, page[3]) for minute in range(page[0], page[0] + page[1], page[2])]
)
PROOFS = st.sampled_from([Reason.DATA, Reason.DATA, Reason.DATA, Reason.CLOSED, Reason.FEED_DOWN])
READS = st.tuples(
    st.sampled_from([SERIES, SERIES, OTHER]),
    st.one_of(RANGES, st.just(EVER)),
    st.integers(0, 1_000),
    st.booleans(),
)


def minutes(start: int, end: int) -> TimeRange:
    return TimeRange(START + start * M, START + end * M)


def _bar(minute: int, close: float | None) -> Bar:
    return (START + minute * M, 1.5, None, 0.5, close, float(minute))


def said(read: StoredBars | StoredRead, span: TimeRange, limit: int, newest: bool) -> tuple[str, Any]:
    """What a read says: its bars, and what is proven of the part that they speak of."""
    reach = reach_of(read.bars, MINUTE, span, limit=limit, newest=newest)
    shown = [piece.clip(reach) for piece in proven(read.coverage)]
    return repr(read.bars), [piece for piece in shown if not piece.is_empty]


class Elsewhere:
    """The same store as another process sees it, which hears of changes when it comes to it."""

    def __init__(self, storage: SQLiteStorage) -> None:
        self.read = storage.read
        self._listeners: list[Changed] = []
        self._unheard: list[Change | None] = []
        storage.listen(self._unheard.append)

    def listen(self, changed: Changed) -> None:
        self._listeners.append(changed)

    def hear(self) -> None:
        for changed in self._listeners:
            for change in self._unheard:
                changed(change)
        self._unheard.clear()


class Comparison(RuleBasedStateMachine):
    """Writes and reads; each read by way of the caches is compared with one without.

    With a Redis there are two nodes, and it may be emptied or restarted, or a node killed.
    """

    def __init__(self, path: Path, redis: RedisServer | None) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.redis, self.space = redis, uuid4().hex
        self.storage = SQLiteStorage(path)
        self.elsewhere = Elsewhere(self.storage)
        self.run(self.storage.open())
        self.caches: list[BarCache] = []
        self.begin()

    def begin(self) -> None:
        """A new process in the place of each node."""
        self.storage._listeners[1:] = []
        self.elsewhere._listeners.clear()
        stores: list[Any] = [self.storage, self.elsewhere]
        self.nodes = [StoredReads(store, self.new_caches()) for store in stores]

    def new_caches(self) -> list[BarCache]:
        # Room for a few buckets, so that some give way.
        caches: list[BarCache] = [MemoryCache(60_000)]
        if self.redis is not None:
            caches.append(RedisCache(self.redis.url, self.space, Metrics()))
        self.caches += caches
        return caches

    @rule(series=st.sampled_from([SERIES, OTHER]), page=PAGES, reason=PROOFS)
    def write(self, series: Series, page: list[Bar], reason: Reason) -> None:
        self.run(self.store(series, page, reason))

    @rule(span=RANGES, reason=PROOFS)
    def prove(self, span: TimeRange, reason: Reason) -> None:
        self.run(self.storage.store(SERIES, [], [Covered(*span, reason)], at_ms=START))

    @rule(node=st.integers(0, 1), read=READS)
    def ask(self, node: int, read: tuple[Series, TimeRange, int, bool]) -> None:
        self.run(self.compare(node, *read))

    @rule(reads=st.lists(READS, min_size=1, max_size=3), page=PAGES)
    def ask_while_it_is_written(
        self, reads: list[tuple[Series, TimeRange, int, bool]], page: list[Bar]
    ) -> None:
        async def all_at_once() -> None:
            asked = [
                node.read(series, span, limit=limit, newest=newest)
                for series, span, limit, newest in reads
                for node in self.nodes
            ]
            half = len(asked) // 2
            await asyncio.gather(*asked[:half], self.store(SERIES, page, Reason.DATA), *asked[half:])

        self.run(all_at_once())
        for node in (0, 1):
            self.run(self.compare(node, *reads[0]))

    @precondition(lambda self: self.redis is not None)
    @rule()
    def empty_redis(self) -> None:
        with redis.Redis.from_url(self.redis.url) as client:
            client.flushall()

    @precondition(lambda self: self.redis is not None)
    @rule()
    def restart_redis(self) -> None:
        self.redis.stop()
        self.redis.start()

    @precondition(lambda self: self.redis is not None)
    @rule(page=PAGES)
    def kill_every_node_after_a_write(self, page: list[Bar]) -> None:
        # Nobody hears of it, and nothing is removed.
        for node in self.nodes:
            node._caches = []
        self.run(self.store(SERIES, page, Reason.DATA))
        self.begin()

    async def store(self, series: Series, page: Sequence[Bar], reason: Reason) -> None:
        covered = Covered(page[0][0], page[-1][0] + M, reason)
        await self.storage.store(series, page, [covered], at_ms=START)

    async def compare(
        self, node: int, series: Series, span: TimeRange, limit: int, newest: bool
    ) -> None:
        self.elsewhere.hear()
        wanted = await self.storage.read(series, span, limit=limit, newest=newest)
        for _ in range(3):  # what is asked for again is kept, and then found
            found = await self.nodes[node].read(series, span, limit=limit, newest=newest)
            assert said(found, span, limit, newest) == said(wanted, span, limit, newest)

    def teardown(self) -> None:
        for node in (0, 1):
            self.run(self.compare(node, SERIES, EVER, 10_000, False))
        for cache in self.caches:
            self.run(cache.close())
        self.run(self.storage.close())
        self.runner.close()

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(work)


@pytest.mark.parametrize("shares", [False, True], ids=["memory", "redis"])
def test_a_cached_read_is_the_read_without_a_cache(
    shares: bool, tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    with RedisServer(tmp_path) as server:
        if shares:
            server.start()
        run_state_machine_as_test(
            lambda: Comparison(  # type: ignore[arg-type]  # any maker of machines will do
                tmp_path_factory.mktemp("stored") / "bars.db", server if shares else None
            ),
            settings=settings(max_examples=12, stateful_step_count=20),
        )


class Slow(SQLiteStorage):
    """A store whose next read begins only once `begin` is set, and is answered once `answer` is."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.begin, self.answer, self.waits = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self.begin.set()
        self.answer.set()
        self.spans: list[TimeRange] = []

    async def read(
        self, series: Series, span: TimeRange, *, limit: int, newest: bool = False
    ) -> StoredBars:
        await self._at(self.begin)
        found = await super().read(series, span, limit=limit, newest=newest)
        self.spans.append(span)
        await self._at(self.answer)
        return found

    async def _at(self, gate: asyncio.Event) -> None:
        if not gate.is_set():
            self.waits.set()
        await gate.wait()


@pytest.fixture
async def slow(tmp_path: Path) -> AsyncIterator[Slow]:
    """Two days of minutes, all proven."""
    storage = Slow(tmp_path / "bars.db")
    await storage.open()
    days = minutes(0, 2 * DAY)
    await storage.store(
        SERIES, [_bar(n, 1.0) for n in range(2 * DAY)], [Covered(*days, Reason.DATA)], at_ms=START
    )
    yield storage
    await storage.close()


async def thrice(reads: StoredReads, span: TimeRange) -> StoredRead:
    for _ in range(2):
        await reads.read(SERIES, span, limit=1_000)
    return await reads.read(SERIES, span, limit=1_000)


async def test_what_was_asked_for_again_is_read_no_more(slow: Slow) -> None:
    reads = StoredReads(slow, [MemoryCache(1_000_000)])
    assert (await thrice(reads, minutes(100, 900))).sources == {"memory": 800}
    slow.spans.clear()
    # Any part of it, and of what lies beside it in the same buckets.
    for start, end in ((100, 900), (333, 334), (0, 960)):
        found = await reads.read(SERIES, minutes(start, end), limit=1_000)
        assert found.bars == [_bar(n, 1.0) for n in range(start, end)]
    assert slow.spans == []


async def test_what_is_asked_for_once_takes_no_room(slow: Slow) -> None:
    memory = MemoryCache(1_000_000)
    await StoredReads(slow, [memory]).read(SERIES, minutes(0, 900), limit=1_000)
    assert memory._bytes == 0
    assert slow.spans == [minutes(0, 900)]


async def test_a_new_bar_costs_its_own_bucket(slow: Slow) -> None:
    reads = StoredReads(slow, [MemoryCache(1_000_000)])
    span = minutes(2 * DAY - 1_000, 2 * DAY + 1)
    await thrice(reads, span)
    bar = _bar(2 * DAY, 1.0)
    await slow.store(SERIES, [bar], [Covered(bar[0], bar[0] + M, Reason.DATA)], at_ms=START)
    slow.spans.clear()
    found = await reads.read(SERIES, span, limit=2_000)
    assert found.bars[-1] == bar
    assert found.sources == {"memory": 1_000, "storage": 1}
    assert all(one.start_ms == bar[0] for one in slow.spans)


async def test_what_was_read_before_a_revision_is_never_found_after_it(slow: Slow) -> None:
    reads = StoredReads(slow, [MemoryCache(1_000_000)])
    await reads.read(SERIES, minutes(0, 240), limit=1_000)
    slow.answer.clear()
    reading = asyncio.ensure_future(reads.read(SERIES, minutes(0, 240), limit=1_000))
    await slow.waits.wait()
    await slow.store(SERIES, [_bar(5, 9.0)], [], at_ms=START)
    slow.answer.set()
    await reading
    for _ in range(3):
        assert (await reads.read(SERIES, minutes(5, 6), limit=1)).bars == [_bar(5, 9.0)]


async def test_an_answer_is_of_one_instant_though_half_of_it_was_near(slow: Slow) -> None:
    reads = StoredReads(slow, [MemoryCache(1_000_000)])
    await thrice(reads, minutes(0, 240))
    slow.begin.clear()
    reading = asyncio.ensure_future(reads.read(SERIES, minutes(0, 480), limit=1_000))
    await slow.waits.wait()
    await slow.store(SERIES, [_bar(5, 9.0), _bar(300, 9.0)], [], at_ms=START)
    slow.begin.set()
    closes = [bar[4] for bar in (await reading).bars]
    assert (closes[5], closes[300]) in {(1.0, 1.0), (9.0, 9.0)}


async def test_what_may_have_been_missed_is_forgotten(slow: Slow) -> None:
    reads = StoredReads(slow, [MemoryCache(1_000_000)])
    assert (await thrice(reads, minutes(0, 240))).sources == {"memory": 240}
    slow._tell(None)
    assert "memory" not in (await reads.read(SERIES, minutes(0, 240), limit=1_000)).sources
