"""Bars that are measured in trades, live: what clients are told is what a read answers."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scripted import INSTRUMENT, START, RememberingPlugin, TickingPlugin
from taped_world import MakeTaped, TapeWorld, passing, tick
from world import Client

from marketd.domain.bar import Bar
from marketd.domain.errors import ProviderFailed, Unsupported
from marketd.domain.instrument import TickSeries
from marketd.domain.tickframe import Tickframe
from marketd.domain.timeframe import day_of
from marketd.domain.timerange import MAX_MS, MIN_MS
from marketd.market.tick_walk import TickWalk
from marketd.storage.sqlite import SQLiteStorage
from marketd.streaming import tick_bar_worker
from marketd.streaming.ring import Cursor
from marketd.streaming.tick_bar_stream import TickBarSubscription

THREE = TickSeries(INSTRUMENT, Tickframe.parse("3t"))
MIDNIGHT = day_of(START)
PATIENCE_S = 10


class Chart:
    """A client that draws what it is told."""

    def __init__(self, world: TapeWorld) -> None:
        self.client = Client(world.broadcast)
        self.bars: dict[int, Bar] = {}
        self.forming: Bar | None = None
        self.cursor = ""
        self.told: list[str] = []
        self._world = world

    async def join(self, since: int | None = None, resume: str | None = None) -> bool:
        service, world = self._world.counting, self._world
        cursor = Cursor.parse(resume, field="resume") if resume else None
        self.since = since if resume is None else MIN_MS
        since_ms = MAX_MS if self.since is None else self.since
        self.subscription = TickBarSubscription(THREE, self.client.outbox, since_ms)
        joined = service.subscribe(world.feed, self.subscription, cursor)
        recovered = True
        if cursor is not None:
            recovered = await service.resume(world.feed, self.subscription, cursor, joined)
        if since is not None:
            await service.catch_up(world.feed, self.subscription, since, joined)
        self.subscription.go_live()
        return recovered

    def leave(self) -> None:
        self._world.counting.unsubscribe(self._world.feed, self.subscription)

    async def draw(self) -> str:
        """Takes the next message, and says of what type it is."""
        message = await self.client.next()
        kind: str = message["type"]
        self.told.append(kind)
        self.cursor = message.get("cursor", self.cursor)
        if kind == "bar" and not message["closed"]:
            self.forming = tuple(message["bar"])
        elif kind == "bar":
            bar = tuple(message["bar"])
            assert bar[0] not in self.bars
            assert all(t_ms < bar[0] for t_ms in self.bars)
            self.bars[bar[0]] = bar
        elif kind in ("snapshot", "revised"):
            start, end = message.get("start", 0), message.get("end", 0)
            self.bars = {t: bar for t, bar in self.bars.items() if not start <= t < end}
            self.bars |= {bar[0]: tuple(bar) for bar in message["bars"]}
            assert self.since is None or all(t_ms >= self.since for t_ms in self.bars)
        return kind

    async def draw_on(self) -> None:
        while True:
            await self.draw()

    async def is_drawn(self, bars: list[Bar]) -> None:
        """Draws until these are the closed bars, and the forming one."""
        async with asyncio.timeout(PATIENCE_S):
            while not self.is_like(bars):
                await self.draw()

    def is_like(self, bars: list[Bar]) -> bool:
        closed = [bar for bar in bars[:-1] if self.since is None or bar[0] >= self.since]
        return bool(bars) and sorted(self.bars.values()) == closed and self.forming == bars[-1]


async def answer(world: TapeWorld) -> list[Bar]:
    """The bars that a read gives."""
    page = await world.pages.page(
        world.feed, THREE.timeframe, since=MIDNIGHT, before=None, limit=1_000, page_token=None
    )
    return page.bars


async def test_a_bar_forms_and_closes_once_with_the_first_trade_of_the_next(
    make_taped: MakeTaped,
) -> None:
    world = make_taped()
    charts = [Chart(world) for _ in range(3)]
    for chart in charts:
        await chart.join()
    world.says(tick(0), tick(10), tick(20), tick(30), tick(40))
    world.says(tick(50))
    bars = await answer_of(world, 2)
    assert [bar[0] - START for bar in bars] == [10, 40]
    for chart in charts:
        await chart.is_drawn(bars)
        assert chart.told.count("bar") <= 4
    assert world.plugin.streams == 1


async def answer_of(world: TapeWorld, count: int) -> list[Bar]:
    """The bars that a read gives, once there are so many."""
    async with asyncio.timeout(PATIENCE_S):
        while len(bars := await answer(world)) < count:  # noqa: ASYNC110 - a read has no event
            await asyncio.sleep(0.001)
    return bars


async def test_a_late_trade_moves_the_bars_behind_it_and_no_others(make_taped: MakeTaped) -> None:
    world = make_taped()
    chart = Chart(world)
    await chart.join()
    world.says(tick(0), *(tick(ms * 10) for ms in range(1, 11)))
    await chart.is_drawn(await answer_of(world, 4))
    world.says(tick(45, "late"), at=100)
    while await chart.draw() != "revised":
        pass
    bars = await answer(world)
    await chart.is_drawn(bars)
    assert [bar[0] - START for bar in bars] == [10, 40, 60, 90]
    world.says(tick(110))
    await chart.is_drawn(await answer_of(world, 4))
    assert chart.told.count("revised") == 1


async def test_a_crash_loses_no_bar(make_taped: MakeTaped, monkeypatch: pytest.MonkeyPatch) -> None:
    world = make_taped()
    healthy, crashes = TickWalk.follow, [0, 1]

    async def follow(walk: TickWalk) -> Any:
        step = await healthy(walk)
        if step.closed and crashes:
            crashes.pop()
            raise RuntimeError("it broke")
        return step

    monkeypatch.setattr(TickWalk, "follow", follow)
    chart = Chart(world)
    await chart.join()
    world.says(tick(0), *(tick(ms * 10) for ms in range(1, 11)))
    await chart.is_drawn(await answer_of(world, 4))
    assert not crashes


async def test_a_trade_of_yesterday_does_not_hide_a_late_one_of_today(make_taped: MakeTaped) -> None:
    world = make_taped()
    chart = Chart(world)
    await chart.join()
    world.says(tick(0), *(tick(ms * 10) for ms in range(1, 11)))
    await chart.is_drawn(await answer_of(world, 4))
    world.says(tick(MIDNIGHT - START - 5_000, "yesterday's"), tick(45, "late"), at=100)
    while await chart.draw() != "revised":
        pass
    await chart.is_drawn(await answer(world))


async def test_of_a_revision_a_client_is_told_what_opens_from_its_since_on(
    make_taped: MakeTaped,
) -> None:
    world = make_taped()
    first = Chart(world)
    await first.join(since=MIDNIGHT)
    world.says(tick(0), *(tick(ms * 10) for ms in range(1, 14)))
    await first.is_drawn(await answer_of(world, 5))
    charts = [Chart(world) for _ in range(4)]
    for chart, ms in zip(charts, (41, 42, 70, 500), strict=True):
        await chart.join(since=START + ms)
    live = Chart(world)
    await live.join()
    world.says(tick(45, "late"), at=140)
    bars = await answer_of(world, 5)
    while bars[2][0] != START + 60:
        bars = await answer(world)
    for chart in [first, *charts[:3]]:
        await chart.is_drawn(bars)
    assert [chart.told.count("revised") for chart in [first, *charts[:3]]] == [1] * 4
    world.says(*(tick(140 + ms * 10) for ms in range(5)))
    bars = await answer_of(world, 6)
    for chart in (charts[3], live):
        while chart.forming != bars[-1]:
            await chart.draw()
        assert min(chart.bars) >= bars[4][0] > START + 100


async def test_the_first_client_of_a_long_day_is_told_no_revision_of_what_was_fetched_for_it(
    make_taped: MakeTaped, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tick_bar_worker, "_KEPT", 4)
    world = make_taped(RememberingPlugin)
    world.plugin.past = [tick(ms * 10) for ms in range(40)]
    world.clock.set(START + 400_000)
    chart = Chart(world)
    await chart.join(since=START + 205)
    clock = asyncio.create_task(passing(world.clock))
    world.plugin.past += (now := [tick(400_000), tick(400_001)])
    world.says(*now)
    await chart.is_drawn(await answer_of(world, 14))
    clock.cancel()
    assert "revised" not in chart.told


async def test_a_lost_connection_is_a_gap_that_ends_a_bar(make_taped: MakeTaped) -> None:
    world = make_taped()
    chart = Chart(world)
    await chart.join()
    world.says(tick(0), tick(10), tick(20), tick(30))
    while chart.forming is None or chart.forming[5] < 1.5:
        await chart.draw()
    world.plugin.batches.put_nowait(ProviderFailed("gone."))
    world.says(tick(60), tick(70))
    bars = await answer_of(world, 2)
    await chart.is_drawn(bars)
    assert {"status", "gap"} <= set(chart.told)
    # The last trade before the gap lies in it: more may have been traded in its millisecond.
    assert [(bar[0] - START, bar[5]) for bar in bars] == [(10, 1.0), (70, 0.5)]


async def test_who_comes_back_is_told_what_it_missed(make_taped: MakeTaped) -> None:
    world = make_taped()
    gone, stays = Chart(world), Chart(world)
    await gone.join()
    await stays.join()
    world.says(tick(0), *(tick(ms * 10) for ms in range(1, 8)))
    await gone.is_drawn(await answer_of(world, 3))
    gone.leave()
    world.says(tick(15, "late"), tick(80), tick(90), at=90)
    await stays.is_drawn(await answer_of(world, 4))
    back = Chart(world)
    back.bars = gone.bars
    assert await back.join(resume=gone.cursor)
    await back.is_drawn(await answer(world))
    older = Chart(world)
    assert not await older.join(resume=Cursor(MIDNIGHT, "0a", 1).token())
    try:
        await older.is_drawn(await answer(world))
    except TimeoutError:
        print(older.told, older.bars, older.forming, await answer(world))
        raise


async def test_a_crowd_that_joins_reads_each_page_once(
    make_taped: MakeTaped, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make_taped()
    asked: list[int] = []
    past = world.pages.past

    async def counted(*args: Any, **options: Any) -> Any:
        asked.append(options["since"])
        return await past(*args, **options)

    monkeypatch.setattr(world.pages, "past", counted)
    first = Chart(world)
    await first.join()
    world.says(tick(0), *(tick(ms * 10) for ms in range(1, 8)))
    bars = await answer_of(world, 3)
    await first.is_drawn(bars)
    crowd = [Chart(world) for _ in range(50)]
    await asyncio.gather(*(chart.join(since=MIDNIGHT) for chart in crowd))
    for chart in crowd:
        await chart.is_drawn(bars)
    assert asked == [MIDNIGHT]


async def test_who_has_no_stream_of_trades_says_so_and_takes_no_room(make_taped: MakeTaped) -> None:
    world = make_taped()
    world.plugin.has_tick_stream = False
    with pytest.raises(Unsupported, match="no stream of trades"):
        await Chart(world).join()
    assert world.broadcast.open_channels == 0


async def test_the_trades_behind_bars_count_as_a_stream_while_clients_follow_them(
    make_taped: MakeTaped,
) -> None:
    world = make_taped()
    chart = Chart(world)
    await chart.join()
    subscription, _ = await world.join(Client(world.broadcast))
    assert world.broadcast.open_channels == 2
    world.service.unsubscribe(world.feed, subscription)
    async with asyncio.timeout(PATIENCE_S):
        while world.broadcast.open_channels != 1:  # noqa: ASYNC110 - an end has no event
            await asyncio.sleep(0.01)
    world.says(tick(0), tick(10), tick(20))
    await chart.is_drawn(await answer_of(world, 1))


async def test_a_stream_ends_some_time_after_its_last_client(make_taped: MakeTaped) -> None:
    world = make_taped()
    chart = Chart(world)
    await chart.join()
    assert world.broadcast.open_channels == 1
    chart.leave()
    async with asyncio.timeout(PATIENCE_S):
        await world.plugin.ended.wait()
    assert world.broadcast.open_channels == 0


# A batch of times, those before 0 late; another client that joins; or the connection is lost, once.
ACTS = st.lists(
    st.one_of(
        st.lists(st.integers(-15, 6), min_size=1, max_size=4),
        st.sampled_from(["lose", "join"]),
    ),
    min_size=1,
    max_size=12,
)


@given(acts=ACTS, has_history=st.booleans())
@example(acts=["lose"], has_history=False)
@example(acts=["join", [1], [-2, -9], [1, -10], [4, -1], "lose", [0, -10], "join"], has_history=False)
@settings(max_examples=10, deadline=None)
def test_whatever_happens_all_clients_see_what_a_read_answers(
    tmp_path_factory: pytest.TempPathFactory, acts: list[Any], has_history: bool
) -> None:
    async def check(path: Path) -> None:
        storage = SQLiteStorage(path / "ticks.db")
        await storage.open()
        world = TapeWorld(storage, RememberingPlugin if has_history else TickingPlugin)
        clock = asyncio.create_task(passing(world.clock, 50))
        charts = [Chart(world)]
        joins = [asyncio.create_task(charts[0].join(since=MIDNIGHT))]
        front = 20
        for number, act in enumerate(acts):
            if act == "join":
                charts.append(Chart(world))
                joins.append(asyncio.create_task(charts[-1].join(since=MIDNIGHT)))
            elif act == "lose" and "lose" not in acts[:number]:
                world.plugin.batches.put_nowait(ProviderFailed("gone."))
            elif act != "lose":
                times = sorted(max(0, front + ms) for ms in act)
                front = max(front, times[-1])
                batch = [tick(ms, f"{number}.{place}") for place, ms in enumerate(times)]
                world.says(*batch)
                if has_history:
                    world.plugin.past = sorted([*world.plugin.past, *batch])
            await asyncio.sleep(0.002 * (number % 3))
        await asyncio.gather(*joins)
        bars: list[Bar] = []
        last = tick(world.clock.now_ms() - START + 1_000, "last")
        end = tick(world.clock.now_ms() - START + 1_001, "end", price=77.0)
        if has_history:
            world.plugin.past += [last, end]
        world.says(last, end)
        drawing = [asyncio.create_task(chart.draw_on()) for chart in charts]
        async with asyncio.timeout(PATIENCE_S):
            while bars[-1:] == [] or bars[-1][4] != 77.0 or not all(one.is_like(bars) for one in charts):
                bars = await answer(world)
                await asyncio.wait(drawing, timeout=0.01)
                assert not any(task.done() for task in drawing), [task.result() for task in drawing]
        for task in [clock, *drawing]:
            task.cancel()
        await world.supervisor.stop()
        await storage.close()

    asyncio.run(check(tmp_path_factory.mktemp("bars")))
