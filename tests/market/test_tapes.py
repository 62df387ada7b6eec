"""Trades by proof: from the store where it knows, else from the provider, and page by page."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted import INSTRUMENT, START, TickingPlugin
from taped import NOW, SPAN, S, World, tick

from marketd.clock import ManualClock
from marketd.domain.bar import Tick
from marketd.domain.coverage import Covered, Gap, Reason
from marketd.domain.errors import HistoryEnds, InvalidInput, ProviderFailed
from marketd.domain.timerange import TimeRange
from marketd.storage.sqlite import SQLiteStorage


async def test_what_the_provider_told_is_not_asked_for_again(storage: SQLiteStorage) -> None:
    world = World(storage)
    world.plugin.past = [tick(ms * S) for ms in range(12)]
    for _ in range(2):
        read = await world.read()
        assert (read.ticks, read.gaps) == (world.plugin.past, [])
    assert len(world.plugin.asked) == 3  # five a page


async def test_no_more_is_asked_for_than_is_wanted(storage: SQLiteStorage) -> None:
    world = World(storage)
    world.plugin.past = [tick(ms * S) for ms in range(60)]
    read = await world.read(TimeRange(START, NOW), limit=3)
    assert (read.ticks, read.gaps) == (world.plugin.past[:3], [])
    assert len(world.plugin.asked) == 1
    read = await world.read(TimeRange(START, START + 50 * S), limit=3, newest=True)
    assert (read.ticks, read.gaps) == (world.plugin.past[47:50], [])
    assert world.plugin.asked[1] == TimeRange(START + 4 * S, START + 50 * S)


async def test_the_present_is_asked_for_once_a_second_and_is_no_gap(storage: SQLiteStorage) -> None:
    world = World(storage)
    world.plugin.past = [tick(NOW - START - 10)]
    for _ in range(3):
        read = await world.read(TimeRange(NOW - 5 * S, NOW + S), newest=True)
        assert (read.ticks, read.gaps) == (world.plugin.past, [])
    assert len(world.plugin.asked) == 1
    world.plugin.clock.advance(2 * S)
    assert not (await world.read(TimeRange(NOW - 5 * S, NOW + 9 * S))).gaps
    assert world.plugin.asked[1:] == [TimeRange(NOW, NOW + 2 * S + 1)]


class Passing(ManualClock):
    """Time passes between any two looks at it."""

    step_ms = 0

    def now_ms(self) -> int:
        self.advance(self.step_ms)
        return super().now_ms()


@pytest.mark.parametrize("settle_ms", [0, 5 * S])
async def test_time_that_passes_while_the_present_is_read_is_no_gap(
    storage: SQLiteStorage, settle_ms: int
) -> None:
    world = World(storage)
    world.plugin.clock = clock = Passing(NOW)
    world.plugin.settle_ms = settle_ms
    for clock.step_ms in range(50, 1_000, 50):
        assert not (await world.read(TimeRange(NOW - 5 * S, NOW + 600 * S), patience_s=30)).gaps


async def test_what_a_provider_does_not_keep_is_a_gap(storage: SQLiteStorage) -> None:
    world = World(storage)
    world.plugin.past = [tick(50 * S)]

    def ends(page: Sequence[Tick]) -> Sequence[Tick]:
        raise HistoryEnds(START + 40 * S)

    world.plugin.tick_answers.append(ends)
    read = await world.read()
    assert read.ticks == world.plugin.past
    assert read.gaps == [Gap(START, START + 40 * S, Reason.UNRECOVERABLE)]


async def test_a_failure_is_told_with_what_there_is(storage: SQLiteStorage) -> None:
    world = World(storage)
    await storage.store_ticks(INSTRUMENT, [tick(1)], [Covered(START, START + S, Reason.DATA)])

    def fails(page: Sequence[Tick]) -> Sequence[Tick]:
        raise ProviderFailed("no.", transient=False)

    world.plugin.tick_answers += [fails, fails]
    read = await world.read()
    assert read.ticks == [tick(1)]
    assert read.gaps == [Gap(START + S, SPAN.end_ms, Reason.FEED_DOWN)]
    with pytest.raises(ProviderFailed, match="no"):
        await world.pages.page(
            world.feed, since=START + 5 * S, before=SPAN.end_ms, limit=5, page_token=None
        )


async def test_without_a_history_only_what_was_stored_is_known(storage: SQLiteStorage) -> None:
    world = World(storage, TickingPlugin)
    known = Covered(START + S, START + 3 * S, Reason.DATA)
    await world.tapes.keep(world.feed, [tick(2 * S)], [known])
    read = await world.read()
    assert read.ticks == [tick(2 * S)]
    assert read.gaps == [
        Gap(START, START + S, Reason.UNRECOVERABLE),
        Gap(START + 3 * S, SPAN.end_ms, Reason.UNRECOVERABLE),
    ]


async def test_who_follows_is_told_each_new_trade_once_whoever_brought_it(
    storage: SQLiteStorage,
) -> None:
    world = World(storage)
    told: list[Tick] = []
    world.tapes.listen(
        world.feed, lambda ticks, seq, is_live: told.extend(ticks), world.feed.provider.now_ms
    )
    world.plugin.past = [tick(ms * S) for ms in range(4)]
    await world.tapes.keep(world.feed, [tick(S), tick(9 * S)], [])
    seq = (await world.read()).seq
    assert told == [tick(S), tick(9 * S), tick(0), tick(2 * S), tick(3 * S)]
    assert seq == 2
    cancelled = asyncio.ensure_future(world.tapes.keep(world.feed, [tick(10 * S)], []))
    await asyncio.sleep(0)
    cancelled.cancel()
    async with asyncio.timeout(30):
        while told[-1] != tick(10 * S):
            await world.read()
    assert len(told) == 6


@given(
    times=st.lists(st.integers(0, 6), max_size=12).map(sorted),
    limit=st.integers(1, 5),
    newest=st.booleans(),
)
@settings(max_examples=40)
def test_pages_of_any_size_are_all_trades_once_each(
    tmp_path_factory: pytest.TempPathFactory, times: list[int], limit: int, newest: bool
) -> None:
    ticks = [tick(ms, str(n)) for n, ms in enumerate(times)]

    async def check(path: Path) -> None:
        storage = SQLiteStorage(path / "bars.db")
        await storage.open()
        world = World(storage)
        await world.tapes.keep(world.feed, ticks, [Covered(0, NOW, Reason.DATA)])
        found: list[Tick] = []
        token = None
        while True:
            page = await world.pages.page(
                world.feed,
                since=None if newest else START,
                before=START + 6,
                limit=limit,
                page_token=token,
            )
            assert len(page.ticks) <= limit
            assert not page.gaps
            found = [*page.ticks, *found] if newest else [*found, *page.ticks]
            token = page.next_page_token
            if token is None:
                break
            assert len(page.ticks) == limit
        assert found == [one for one in ticks if one[0] < START + 6]
        await storage.close()

    asyncio.run(check(tmp_path_factory.mktemp("pages")))


@pytest.mark.parametrize("token", ["x", "dGlja3Mtc2luY2U6MQ", "dGlja3Mtc2luY2U6MS4yLjM", "Y3Vyc29yOjE"])
async def test_a_token_of_another_question_is_refused(storage: SQLiteStorage, token: str) -> None:
    world = World(storage)
    with pytest.raises(InvalidInput):
        await world.pages.page(world.feed, since=START, before=None, limit=1, page_token=token)
