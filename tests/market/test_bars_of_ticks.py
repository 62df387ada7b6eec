"""Bars that a provider does not have, out of the trades that it has."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted import INSTRUMENT, START, M, RememberingPlugin, feed_of, provider_of, scripted

from marketd.clock import ManualClock
from marketd.domain.bar import Bar, Tick
from marketd.domain.coverage import Gap, Reason
from marketd.domain.errors import InvalidInput, Unsupported
from marketd.domain.instrument import Series
from marketd.domain.tick_bars import bars_of_ticks
from marketd.domain.timeframe import Timeframe
from marketd.domain.timerange import TimeRange
from marketd.market.history import History
from marketd.market.late import LateTrades
from marketd.market.orchestrator import DataOrchestrator
from marketd.market.service import MarketService, SeriesName
from marketd.market.tapes import Tapes
from marketd.market.time_bars import TimeBarFeed, TimeBars
from marketd.metrics import Metrics
from marketd.plugins.feed import TickFeed
from marketd.plugins.provider import Provider
from marketd.storage import Change
from marketd.storage.sqlite import SQLiteStorage
from marketd.supervisor import Supervisor

DAY, MINUTE, SECOND, FIVE = (Timeframe.parse(text) for text in ("1d", "1m", "1s", "5m"))
NOW = START + 20 * M + 30_000


def tick(ms: int, price: float = 100.0, size: float = 0.1) -> Tick:
    return (START + ms, price, size, "buy", str(ms))


TICKS = [tick(7_000 * n, 100.0 + n % 5) for n in range(175)]


def provider(ticks: list[Tick], timeframes: Sequence[Timeframe] = (DAY,)) -> tuple[Any, Provider]:
    clock = ManualClock(NOW)
    plugin: Any = scripted([], now_ms=NOW, timeframes=timeframes, cls=RememberingPlugin, clock=clock)
    plugin.past = ticks
    return plugin, provider_of(plugin)


LATE = 15 * M


def made(storage: SQLiteStorage, source: Provider, base: Timeframe = MINUTE) -> TimeBarFeed:
    tapes = Tapes(storage, Metrics())
    return TimeBars(tapes, late_ms=LATE).feed(source, INSTRUMENT, base)


def orchestrator(storage: SQLiteStorage) -> DataOrchestrator:
    return DataOrchestrator(History(storage, Metrics()), request_timeout_ms=5_000, depth_ms=M * 60)


class World:
    """A provider of trades alone, and all that makes bars of them."""

    def __init__(self, storage: SQLiteStorage, ticks: list[Tick], bases: list[Timeframe]) -> None:
        self.plugin, self.source = provider(list(ticks), timeframes=bases)
        self.plugin.tick_page_limit = 100
        self.storage = storage
        self.metrics = Metrics()
        self.tapes = Tapes(storage, self.metrics)
        self.time_bars = TimeBars(self.tapes, late_ms=LATE)
        history = History(storage, self.metrics)
        self.bars = DataOrchestrator(history, request_timeout_ms=5_000, depth_ms=M * 60)
        self.late = LateTrades(self.time_bars, history, self.metrics, late_ms=LATE)
        self.tapes.watch(self.late.came)
        self.supervisor = Supervisor(self.metrics)
        self.supervisor.run("late", self.late.run)

    async def says(self, *ticks: Tick) -> None:
        """A stream has just told these."""
        tape = TickFeed(self.source, INSTRUMENT)
        await self.tapes.keep(tape, sorted(ticks), [], is_live=True)

    async def read(self, base: Timeframe = MINUTE, timeframe: Timeframe | None = None) -> list[Bar]:
        feed = self.time_bars.feed(self.source, INSTRUMENT, base)
        found = await self.bars.bars(feed, timeframe or base, since=START, before=None, limit=2_000)
        assert found.gaps == []
        return found.bars

    async def shows(self, expected: Callable[[], list[Bar]], base: Timeframe = MINUTE) -> None:
        """A read gives these, in a moment."""
        async with asyncio.timeout(30):
            while await self.read(base) != expected():  # noqa: ASYNC110 - it is revised behind the reads
                await asyncio.sleep(0.001)


async def test_the_base_is_the_coarsest_that_trades_can_make() -> None:
    plugin, source = provider(TICKS)
    assert source.base_of("BTC/USD", Timeframe.parse("1w")) == DAY
    assert source.base_of("BTC/USD", FIVE) == MINUTE
    assert source.base_of("BTC/USD", Timeframe.parse("90s")) == SECOND
    assert not source.streams_bars("BTC/USD", MINUTE)
    plugin.has_tick_history = plugin.has_tick_stream = False
    with pytest.raises(Unsupported, match="from which 5m cannot be made"):
        source.base_of("BTC/USD", FIVE)


@pytest.mark.parametrize("timeframe", [MINUTE, FIVE])
async def test_they_are_the_bars_of_all_trades_the_forming_one_included(
    storage: SQLiteStorage, timeframe: Timeframe
) -> None:
    _, source = provider(TICKS)
    feed = made(storage, source)
    for _ in range(2):
        found = await orchestrator(storage).bars(feed, timeframe, since=START, before=None, limit=100)
        assert found.gaps == []
        expected = bars_of_ticks(TICKS, timeframe)
        assert [bar[:5] for bar in found.bars] == [bar[:5] for bar in expected]
        assert [bar[5] for bar in found.bars] == pytest.approx([bar[5] for bar in expected])


async def test_bars_of_trades_take_no_parameters(storage: SQLiteStorage) -> None:
    _, source = provider(TICKS)
    time_bars = TimeBars(Tapes(storage, Metrics()), late_ms=LATE)
    loader: Any = SimpleNamespace(provider=lambda name: source)
    nobody: Any = None
    service = MarketService(loader, orchestrator(storage), time_bars, nobody, nobody, storage)
    assert (await service.feed(SeriesName(INSTRUMENT, MINUTE, {}))).tape is not None
    with pytest.raises(
        InvalidInput, match="test has no 1m bars; those made of its trades take no param"
    ):
        await service.feed(SeriesName(INSTRUMENT, MINUTE, {"adjustment": "raw"}))
    assert (await service.feed(SeriesName(INSTRUMENT, DAY, {"adjustment": "raw"}))).tape is None


async def test_what_is_closed_is_asked_for_once(storage: SQLiteStorage) -> None:
    plugin, source = provider(TICKS)
    feed = made(storage, source)
    past = {"since": START, "before": START + 10 * M, "limit": 100}
    await orchestrator(storage).bars(feed, MINUTE, **past)
    asked = len(plugin.asked)
    assert len((await orchestrator(storage).bars(feed, MINUTE, **past)).bars) == 10
    assert len(plugin.asked) == asked


async def test_no_bar_is_made_of_a_part_of_its_trades(storage: SQLiteStorage) -> None:
    plugin, source = provider(TICKS)
    plugin.tick_answers.append(lambda page: [*page[:-1], (START + 30_000, -1.0, 1.0, "", "")])
    feed = made(storage, source)
    found = await orchestrator(storage).bars(feed, MINUTE, since=START, before=START + 3 * M, limit=9)
    assert [bar[0] for bar in found.bars] == [START + M, START + 2 * M]
    assert found.gaps == [Gap(START, START + M, Reason.UNRECOVERABLE)]


@given(
    times=st.lists(st.integers(0, 10_000), max_size=60).map(sorted),
    late_s=st.integers(0, 12),
    since=st.integers(0, 5),
    length=st.integers(1, 8),
)
@settings(max_examples=20)
def test_pages_put_together_are_all_bars_of_the_range(
    tmp_path_factory: pytest.TempPathFactory, times: list[int], since: int, length: int, late_s: int
) -> None:
    ticks = [(START + ms, 100.0 + n % 7, 0.5, "", str(n)) for n, ms in enumerate(times)]
    span = TimeRange(START + since * 1_000, START + (since + length) * 1_000)

    async def check() -> None:
        plugin, source = provider(ticks)
        # A millisecond with more trades than a page could not be had whole.
        plugin.tick_page_limit = 1 + max((times.count(ms) for ms in times), default=1)
        storage = SQLiteStorage(tmp_path_factory.mktemp("pages") / "bars.db")
        await storage.open()
        plugin.clock = ManualClock(START + LATE + late_s * 1_000)
        feed = made(storage, source, SECOND)
        bars, cursor = [], span.start_ms
        while cursor < span.end_ms:
            page = await feed.fetch(TimeRange(cursor, span.end_ms))
            assert cursor < page.end_ms
            assert page.refused == []
            bars += page.bars
            cursor = page.end_ms
        await storage.close()
        inside = [tick for tick in ticks if span.start_ms <= tick[0] < span.end_ms]
        assert bars == bars_of_ticks(inside, SECOND)

    asyncio.run(check())


@pytest.fixture
async def world(storage: SQLiteStorage) -> AsyncIterator[World]:
    world = World(storage, TICKS, [DAY])
    yield world
    await world.supervisor.stop()


@pytest.mark.parametrize("base", [MINUTE, SECOND])
async def test_a_late_trade_revises_the_bar_that_was_made_without_it(
    world: World, base: Timeframe
) -> None:
    await world.read(base)
    changes: list[Change | None] = []
    world.storage.listen(changes.append)
    late = [tick(7 * M + 100, 200.0), tick(20 * M - 1, 50.0)]
    await world.says(*late)
    await world.shows(lambda: bars_of_ticks(sorted([*TICKS, *late]), base), base)
    assert any(change and change.is_revision for change in changes)
    told = await world.storage.revised(Series(INSTRUMENT, base), after=0, limit=10)
    assert [one.rev for one in told.bars if one.bar[2] == 200.0] == [1]
    await world.says(tick(7 * M + 200, 300.0))
    await world.shows(
        lambda: bars_of_ticks(sorted([*TICKS, *late, tick(7 * M + 200, 300.0)]), base), base
    )


async def test_an_interval_without_a_trade_gets_a_bar_when_one_comes_late(world: World) -> None:
    await world.read(SECOND)
    await world.says(late := tick(18 * M + 3_000))
    await world.shows(lambda: bars_of_ticks(sorted([*TICKS, late]), SECOND), SECOND)


async def test_a_trade_beyond_the_window_is_stored_and_counted_and_revises_nothing(
    world: World,
) -> None:
    bars = await world.read()
    asked = len(world.plugin.asked)
    await world.says(tick(100), late := tick(15 * M + 100, 200.0))
    await world.shows(lambda: [*bars[:15], *bars_of_ticks(sorted([*TICKS, late]), MINUTE)[15:]])
    counted = world.metrics.registry.get_sample_value(
        "marketd_ticks_too_late_total", {"provider": "test"}
    )
    assert counted == 1
    minute = TimeRange(START, START + M)
    assert tick(100) in (await world.storage.read_ticks(INSTRUMENT, minute, limit=100)).ticks
    # What it takes to make a bar again is stored.
    assert len(world.plugin.asked) == asked


async def test_what_a_process_had_no_time_to_make_again_the_next_one_makes(
    world: World, storage: SQLiteStorage
) -> None:
    await world.read()
    await storage.store_ticks(INSTRUMENT, [late := tick(10 * M + 100, 200.0)])
    next_one = World(storage, TICKS, [DAY])
    await next_one.says(now := tick(20 * M + 29_000))
    await next_one.shows(lambda: bars_of_ticks(sorted([*TICKS, late, now]), MINUTE))
    await next_one.supervisor.stop()


async def test_the_providers_own_bars_are_not_made_of_trades(storage: SQLiteStorage) -> None:
    world = World(storage, TICKS, [DAY, MINUTE, SECOND])
    feed = feed_of(world.source)
    own = (START + 19 * M, 1.0, 2.0, 1.0, 2.0, 3.0)
    world.plugin.bars = [own]
    assert (await world.bars.bars(feed, MINUTE, since=START, before=None, limit=99)).bars == [own]
    await world.says(tick(19 * M + 100, 200.0))
    assert not world.late._due
    await world.supervisor.stop()


ACTS = st.lists(
    st.one_of(
        st.sampled_from([MINUTE, SECOND, FIVE]),
        st.lists(st.integers(16 * M, NOW - START), min_size=1, max_size=4),
    ),
    min_size=1,
    max_size=8,
)


@given(acts=ACTS)
@settings(max_examples=10)
def test_in_whatever_order_trades_and_readers_come_the_bars_are_those_of_all_trades(
    tmp_path_factory: pytest.TempPathFactory, acts: list[Timeframe | list[int]]
) -> None:
    async def check() -> None:
        storage = SQLiteStorage(tmp_path_factory.mktemp("late") / "bars.db")
        await storage.open()
        world = World(storage, TICKS, [DAY])
        said = list(TICKS)
        under_way: list[asyncio.Task[Any]] = []
        for act in acts:
            if isinstance(act, Timeframe):
                base = MINUTE if act == FIVE else act
                under_way.append(asyncio.create_task(world.read(base, act)))
            else:
                batch = [tick(ms, 100.0 + ms % 7) for ms in set(act) - {one[0] - START for one in said}]
                said += batch
                if batch:
                    under_way.append(asyncio.create_task(world.says(*batch)))
            await asyncio.sleep(0)
        await asyncio.gather(*under_way)
        for base in (MINUTE, SECOND):
            await world.shows(lambda base=base: bars_of_ticks(sorted(said), base), base)
        await world.supervisor.stop()
        await storage.close()

    asyncio.run(check())
