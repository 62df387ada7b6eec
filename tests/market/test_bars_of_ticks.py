"""Bars that a provider does not have, out of the trades that it has."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted import INSTRUMENT, START, M, RememberingPlugin, feed_of, provider_of, scripted

from marketd.clock import ManualClock
from marketd.domain.bar import Tick
from marketd.domain.coverage import Gap, Reason
from marketd.domain.errors import Unsupported
from marketd.domain.instrument import Series
from marketd.domain.tick_bars import bars_of_ticks
from marketd.domain.timeframe import Timeframe
from marketd.domain.timerange import MAX_MS, MIN_MS, TimeRange
from marketd.market.history import History
from marketd.market.orchestrator import DataOrchestrator
from marketd.metrics import Metrics
from marketd.plugins.feed import Feed
from marketd.plugins.provider import Provider
from marketd.storage.sqlite import SQLiteStorage

DAY, MINUTE, SECOND, FIVE = (Timeframe.parse(text) for text in ("1d", "1m", "1s", "5m"))
NOW = START + 20 * M + 30_000


def tick(ms: int, price: float = 100.0, size: float = 0.1) -> Tick:
    return (START + ms, price, size, "buy", str(ms))


TICKS = [tick(7_000 * n, 100.0 + n % 5) for n in range(175)]


def provider(ticks: list[Tick], **options: Any) -> tuple[Any, Provider]:
    clock = ManualClock(NOW)
    plugin: Any = scripted([], now_ms=NOW, timeframes=[DAY], cls=RememberingPlugin, clock=clock)
    plugin.past = ticks
    return plugin, provider_of(plugin, **options)


def orchestrator(storage: SQLiteStorage) -> DataOrchestrator:
    return DataOrchestrator(History(storage, Metrics()), request_timeout_ms=5_000, depth_ms=M * 60)


async def test_the_base_is_the_coarsest_that_trades_can_make() -> None:
    plugin, source = provider(TICKS)
    assert source.base_of("BTC/USD", Timeframe.parse("1w")) == DAY
    assert source.base_of("BTC/USD", FIVE) == MINUTE
    assert source.base_of("BTC/USD", Timeframe.parse("90s")) == SECOND
    assert not source.streams_bars("BTC/USD", MINUTE)
    plugin.has_tick_history = False
    with pytest.raises(Unsupported, match="from which 5m cannot be made"):
        source.base_of("BTC/USD", FIVE)


@pytest.mark.parametrize("timeframe", [MINUTE, FIVE])
async def test_they_are_the_bars_of_all_trades_the_forming_one_included(
    storage: SQLiteStorage, timeframe: Timeframe
) -> None:
    _, source = provider(TICKS)
    feed = feed_of(source, MINUTE)
    for _ in range(2):
        found = await orchestrator(storage).bars(feed, timeframe, since=START, before=None, limit=100)
        assert found.gaps == []
        expected = bars_of_ticks(TICKS, timeframe)
        assert [bar[:5] for bar in found.bars] == [bar[:5] for bar in expected]
        assert [bar[5] for bar in found.bars] == pytest.approx([bar[5] for bar in expected])


async def test_what_is_closed_is_asked_for_once(storage: SQLiteStorage) -> None:
    plugin, source = provider(TICKS)
    feed = feed_of(source, MINUTE)
    past = {"since": START, "before": START + 10 * M, "limit": 100}
    await orchestrator(storage).bars(feed, MINUTE, **past)
    asked = len(plugin.asked)
    assert len((await orchestrator(storage).bars(feed, MINUTE, **past)).bars) == 10
    assert len(plugin.asked) == asked


async def test_no_bar_is_made_of_a_part_of_its_trades(storage: SQLiteStorage) -> None:
    plugin, source = provider(TICKS)
    plugin.tick_answers.append(lambda page: [*page[:-1], (START + 30_000, -1.0, 1.0, "", "")])
    feed = feed_of(source, MINUTE)
    found = await orchestrator(storage).bars(feed, MINUTE, since=START, before=START + 3 * M, limit=9)
    assert [bar[0] for bar in found.bars] == [START + M, START + 2 * M]
    assert found.gaps == [Gap(START, START + M, Reason.UNRECOVERABLE)]


@given(
    times=st.lists(st.integers(0, 10_000), max_size=60).map(sorted),
    since=st.integers(0, 5),
    length=st.integers(1, 8),
)
@settings(max_examples=60)
def test_pages_put_together_are_all_bars_of_the_range(times: list[int], since: int, length: int) -> None:
    ticks = [(START + ms, 100.0 + n % 7, 0.5, "", str(n)) for n, ms in enumerate(times)]
    span = TimeRange(START + since * 1_000, START + (since + length) * 1_000)

    async def check() -> None:
        plugin, source = provider(ticks)
        # A millisecond with more trades than a page could not be had whole.
        plugin.tick_page_limit = 1 + max((times.count(ms) for ms in times), default=1)
        feed = Feed(source, Series(INSTRUMENT, SECOND), {}, TimeRange(MIN_MS, MAX_MS))
        bars, cursor = [], span.start_ms
        while cursor < span.end_ms:
            page = await source.fetch("BTC/USD", SECOND, TimeRange(cursor, span.end_ms), feed.params)
            assert cursor < page.end_ms
            assert page.refused == []
            bars += page.bars
            cursor = page.end_ms
        inside = [tick for tick in ticks if span.start_ms <= tick[0] < span.end_ms]
        assert bars == bars_of_ticks(inside, SECOND)

    asyncio.run(check())
