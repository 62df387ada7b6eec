"""How far days were counted is remembered, and makes no difference to what is answered."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import asyncpg
import pytest
from counting import MIDNIGHT, THREE, Counting, opens, tick
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted import RememberingPlugin, TickingPlugin
from servers.postgres import PostgresServer
from taped import NOW

from marketd.domain.bar import Tick
from marketd.domain.errors import ProviderFailed
from marketd.domain.tickframe import TickBarMaker, Tickframe
from marketd.domain.timeframe import DAY_MS
from marketd.domain.timerange import MIN_MS, TimeRange
from marketd.market import tapes, tick_bar_pages, tick_counts, tick_walk
from marketd.market.tapes import TapeRead
from marketd.market.tick_bar_pages import TickBarPages
from marketd.market.tick_counts import TickCounts
from marketd.market.tick_walk import TickWalk
from marketd.plugins.feed import TickFeed
from marketd.storage.postgres import PostgresStorage
from marketd.storage.sqlite import SQLiteStorage

TIMES = st.integers(-8, 30)
SPANS = st.tuples(TIMES, st.integers(0, 12))
# Trades that are stored with what they prove, that the provider has, or that come while one asks; a time
# of which all is known; trades that get too old; a provider that fails from now on, or answers again.
ACTS = st.one_of(
    st.tuples(st.sampled_from(["store", "history", "race"]), st.lists(TIMES, min_size=1, max_size=8)),
    st.tuples(st.just("known"), SPANS),
    st.tuples(st.just("drop"), TIMES),
    st.tuples(st.sampled_from(["fail", "answer", "look"]), st.none()),
)
QUESTIONS = st.fixed_dictionaries(
    {"limit": st.integers(1, 6)},
    optional={
        "since": TIMES.map(lambda ms: MIDNIGHT + ms),
        "before": TIMES.map(lambda ms: MIDNIGHT + ms),
    },
)


class Plain(TickCounts):
    """Counts every day from its beginning."""

    @asynccontextmanager
    async def walk(self, feed: TickFeed, frame: Tickframe, start_ms: int, **_: Any) -> Any:
        yield TickWalk(self._tapes, feed, TickBarMaker(frame), start_ms)


def fails(page: Sequence[Tick]) -> Sequence[Tick]:
    raise ProviderFailed("no.", transient=False)


async def answer(counting: Counting, pages: TickBarPages, question: dict[str, Any]) -> Any:
    asked = {"since": None, "before": None, "page_token": None} | question
    try:
        return await pages.page(counting.world.feed, THREE, **asked)
    except ProviderFailed as error:
        return str(error)


async def act(counting: Counting, what: str, how: Any, number: int) -> None:
    plugin = counting.world.plugin
    has_history = isinstance(plugin, RememberingPlugin)
    if what in ("store", "history", "race"):
        ticks = [tick(ms, 100 * number + place) for place, ms in enumerate(sorted(how))]
        if has_history:
            plugin.past = sorted([*plugin.past, *ticks])
        looking = [answer(counting, counting.pages, {"limit": 3})] if what == "race" else []
        if what != "history":
            storing = counting.keep(*ticks, known=(ticks[0][0], ticks[-1][0] + 1))
            await asyncio.gather(*looking, storing)
    elif what == "known":
        await counting.keep(known=(MIDNIGHT + how[0], MIDNIGHT + how[0] + how[1]))
    elif what == "drop":
        await counting.world.storage.drop_ticks(MIDNIGHT + how)
    elif has_history:
        plugin.tick_answers[:] = [fails] * 1_000 if what == "fail" else []


@given(
    acts=st.lists(ACTS, min_size=2, max_size=10), questions=st.lists(QUESTIONS, min_size=1, max_size=3)
)
@settings(max_examples=30, deadline=None)
@pytest.mark.parametrize("cls", [TickingPlugin, RememberingPlugin])
def test_a_count_that_goes_on_gives_the_same_as_one_from_the_beginning_of_the_day(
    tmp_path_factory: pytest.TempPathFactory, cls: type[Any], acts: list[Any], questions: list[Any]
) -> None:
    async def check(path: Path) -> None:
        storage = SQLiteStorage(path / "bars.db")
        await storage.open()
        counting = Counting(storage, cls)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(tick_bar_pages, "TickCounts", Plain)
            plain = TickBarPages(counting.world.tapes, request_timeout_ms=2_000, keep_ms=10 * DAY_MS)
        for number, (what, how) in enumerate(acts):
            await act(counting, what, how, number)
            for question in questions:
                found = await answer(counting, counting.pages, question)
                same = await answer(counting, plain, question)
                # What is known to have no bars needs nobody to be asked what there is behind it.
                assert found == same or (isinstance(same, str) and not found.bars)
        await storage.close()

    with pytest.MonkeyPatch.context() as patch:
        # So that days of some trades take several steps, and are longer than what is remembered.
        patch.setattr(tick_walk, "_READ", 4)
        patch.setattr(tick_counts, "_KEPT", 4)
        asyncio.run(check(tmp_path_factory.mktemp("counts")))


async def read_by(counting: Counting, monkeypatch: pytest.MonkeyPatch) -> tuple[list[int], int]:
    """When the bars of a page open, and how many trades were read for them."""
    read = counting.world.tapes.read
    trades = 0

    async def counted(*args: Any, **options: Any) -> TapeRead:
        nonlocal trades
        found = await read(*args, **options)
        trades += len(found.ticks)
        return found

    with monkeypatch.context() as patch:
        patch.setattr(counting.world.tapes, "read", counted)
        page = await counting.page()
    return opens(page), trades


async def test_a_poll_reads_what_was_traded_since_the_one_before(
    storage: SQLiteStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    counting = Counting(storage)
    await counting.keep(*(tick(ms) for ms in range(300)), known=(MIN_MS, MIDNIGHT + 299))
    times, trades = await read_by(counting, monkeypatch)
    assert times == list(range(0, 300, 3))
    assert trades > 300
    assert await read_by(counting, monkeypatch) == (times, 2)
    await counting.keep(*(tick(ms) for ms in (299, 300, 301)), known=(MIN_MS, MIDNIGHT + 301))
    times, trades = await read_by(counting, monkeypatch)
    assert times == list(range(3, 301, 3))
    assert trades < 10


async def test_a_late_trade_that_another_process_has_stored_is_found(
    postgres_server: PostgresServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tapes, "_NEWS", 2)
    async with AsyncExitStack() as stack:
        connection = await asyncpg.connect(postgres_server.url())
        await connection.execute("CREATE SCHEMA counted")
        await connection.close()
        processes = []
        for _ in range(2):
            storage = PostgresStorage(f"{postgres_server.url()}?search_path=counted", connections=2)
            await storage.open()
            stack.push_async_callback(storage.close)
            processes.append(Counting(storage))
        one, other = processes
        await other.keep(*(tick(10 * ms) for ms in range(30)))
        assert opens(await one.page())[:3] == [0, 30, 60]
        assert (await read_by(one, monkeypatch))[1] < 10
        await other.keep(*(tick(ms) for ms in (35, 300, 310, 320, 330)))
        times, trades = await read_by(one, monkeypatch)
        assert times[:4] == [0, 30, 50, 80]
        assert 25 < trades < 45
        assert times == opens(await other.page())
        assert (await read_by(one, monkeypatch))[1] < 10


async def test_what_comes_while_a_day_is_counted_is_in_the_next_answer(
    storage: SQLiteStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tick_walk, "_READ", 4)
    counting = Counting(storage)
    await counting.keep(*(tick(10 * ms) for ms in range(20)))
    read = counting.world.tapes.read
    reads = 0

    async def meanwhile(*args: Any, **options: Any) -> TapeRead:
        nonlocal reads
        found = await read(*args, **options)
        reads += 1
        if reads == 5:
            monkeypatch.setattr(counting.world.tapes, "read", read)
            await counting.keep(tick(5))
        return found

    monkeypatch.setattr(counting.world.tapes, "read", meanwhile)
    await counting.page()
    assert (reads, opens(await counting.page())[:4]) == (5, [0, 20, 50, 80])


async def test_a_day_of_which_trades_are_deleted_is_counted_as_it_is_stored(
    storage: SQLiteStorage,
) -> None:
    counting = Counting(storage, RememberingPlugin, keep_ms=NOW - MIDNIGHT - 4)
    await counting.keep(*(tick(ms) for ms in range(10)))
    assert opens(await counting.page()) == [0, 3, 6, 9]
    await storage.drop_ticks(MIDNIGHT + 4)
    # The provider does not have them any more, and says that there were none.
    await counting.world.tapes.fill(counting.world.feed, TimeRange(MIDNIGHT, MIDNIGHT + 4))
    assert opens(await counting.page()) == [4, 7]
