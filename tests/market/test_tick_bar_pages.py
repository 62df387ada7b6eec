"""Bars that are measured in trades, page by page, out of the trades that are known."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from counting import MIDNIGHT, Counting, opens, tick
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted import RememberingPlugin
from taped import NOW, S

from marketd.domain.bar import Bar
from marketd.domain.coverage import Gap, Reason
from marketd.domain.errors import InvalidInput, ProviderFailed, ProviderTimeout
from marketd.domain.tickframe import TickBarMaker, Tickframe
from marketd.domain.timerange import MIN_MS
from marketd.market.tick_bar_pages import TickBarsPage
from marketd.storage.sqlite import SQLiteStorage


@given(
    times=st.lists(st.integers(-8, 8), max_size=30).map(sorted),
    frame=st.sampled_from(["1t", "3t", "0.2v"]).map(Tickframe.parse),
    limit=st.integers(1, 4),
    newest=st.booleans(),
    since=st.integers(-9, 9),
    before=st.integers(-9, 9),
)
@settings(max_examples=40, deadline=None)
def test_pages_of_any_size_are_all_bars_once_each(
    tmp_path_factory: pytest.TempPathFactory,
    times: list[int],
    frame: Tickframe,
    limit: int,
    newest: bool,
    since: int,
    before: int,
) -> None:
    ticks = [tick(ms, number) for number, ms in enumerate(times)]
    maker = TickBarMaker(frame)
    bars: list[Bar] = [*maker.take(ticks), *filter(None, [maker.forming])]

    async def check(path: Path) -> None:
        storage = SQLiteStorage(path / "bars.db")
        await storage.open()
        counting = Counting(storage)
        await counting.keep(*ticks)
        asked = {"before": MIDNIGHT + before} | ({} if newest else {"since": MIDNIGHT + since})
        found: list[Bar] = []
        token = None
        while True:
            page = await counting.page(frame, **asked, limit=limit, page_token=token)
            assert not page.gaps
            found = [*page.bars, *found] if newest else [*found, *page.bars]
            token = page.next_page_token
            if token is None:
                break
            assert len(page.bars) == limit
        first_ms = MIN_MS if newest else MIDNIGHT + since
        assert found == [bar for bar in bars if first_ms <= bar[0] < MIDNIGHT + before]
        await storage.close()

    asyncio.run(check(tmp_path_factory.mktemp("pages")))


async def test_no_bar_reaches_over_a_gap_and_none_holds_a_trade_within_one(
    storage: SQLiteStorage,
) -> None:
    counting = Counting(storage)
    await counting.keep(*(tick(ms) for ms in (1, 2, 10)), known=(MIN_MS, MIDNIGHT + 10))
    await counting.keep(*(tick(ms) for ms in (19, 20, 21, 22, 30)), known=(MIDNIGHT + 20, NOW))
    page = await counting.page(since=MIDNIGHT)
    assert opens(page) == [1, 20, 30]
    assert [bar[5] for bar in page.bars] == [0.0] * 3
    hole = Gap(MIDNIGHT + 10, MIDNIGHT + 20, Reason.UNRECOVERABLE)
    assert page.gaps[0] == hole
    assert (await counting.page(before=MIDNIGHT + 25, limit=1)).gaps == []
    assert (await counting.page(before=MIDNIGHT + 25, limit=2)).gaps == [hole]


async def test_a_gap_that_may_still_be_filled_decides_where_the_bars_behind_it_begin(
    storage: SQLiteStorage,
) -> None:
    counting = Counting(storage, RememberingPlugin)
    await counting.keep(*(tick(ms) for ms in range(50, 60)), known=(MIDNIGHT + 50, NOW))

    def fails(page: Any) -> Any:
        raise ProviderFailed("no.", transient=False)

    counting.world.plugin.tick_answers += [fails] * 2
    page = await counting.page(since=MIDNIGHT + 53)
    assert opens(page) == [53, 56, 59]
    assert page.gaps == [Gap(MIDNIGHT, MIDNIGHT + 50, Reason.FEED_DOWN)]
    with pytest.raises(ProviderFailed, match="no"):
        await counting.page(since=NOW - 1, before=NOW)
    counting.world.plugin.past = [tick(1)]
    page = await counting.page(since=MIDNIGHT + 53)
    assert (opens(page), page.gaps) == ([55, 58], [])


async def test_the_newest_bar_forms_until_a_trade_of_the_next_one_comes(storage: SQLiteStorage) -> None:
    counting = Counting(storage)
    await counting.keep(tick(1, 1), tick(2, 2), tick(3, 3))
    (bar,) = (await counting.page()).bars
    await counting.keep(tick(3, 4))
    (grown,) = (await counting.page()).bars
    assert (grown[0], grown[5]) == (bar[0], pytest.approx(0.4))
    await counting.keep(tick(4, 5))
    assert (await counting.page()).bars[0] == grown


async def test_in_the_time_that_there_is_some_bars_are_counted_or_it_is_said_to_be_short(
    storage: SQLiteStorage,
) -> None:
    counting = Counting(storage, patience_ms=0)
    await counting.keep(*(tick(ms) for ms in range(10_001)))
    with pytest.raises(ProviderTimeout, match="counted within the time"):
        await counting.page(Tickframe.parse("20000t"), since=MIDNIGHT)
    page = await counting.page(since=MIDNIGHT, limit=10_000)
    rest = await counting.page(since=MIDNIGHT, limit=10_000, page_token=page.next_page_token)
    assert opens(page) + opens(rest) == list(range(0, 10_001, 3))
    assert page.bars
    assert rest.bars


@pytest.mark.parametrize("asked", [{}, {"since": MIDNIGHT}])
async def test_a_token_is_for_the_question_that_it_came_with(storage: SQLiteStorage, asked: Any) -> None:
    counting = Counting(storage)
    await counting.keep(*(tick(ms) for ms in range(9)))
    token = (await counting.page(**asked, limit=1)).next_page_token
    with pytest.raises(InvalidInput, match="page_token"):
        await counting.page(Tickframe.parse("4t"), **asked, limit=1, page_token=token)


async def test_where_nothing_was_traded_there_is_no_bar(storage: SQLiteStorage) -> None:
    counting = Counting(storage)
    await counting.keep()
    for since in (None, NOW - 5 * S):
        assert await counting.page(since=since, before=NOW) == TickBarsPage([], [], False, None, None)
