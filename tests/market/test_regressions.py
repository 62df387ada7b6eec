"""What daemons of this kind get wrong, each once and by name; more of each is tried beside its part."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from scripted import INSTRUMENT, START, M, ScriptedPlugin, bar, feed_of, provider_of, scripted

from marketd.cache import MemoryCache
from marketd.clock import ManualClock
from marketd.domain.bar import Bar
from marketd.domain.errors import ProviderFailed
from marketd.domain.instrument import Series
from marketd.domain.resample import resample
from marketd.domain.timeframe import DAY_MS, Timeframe
from marketd.domain.timerange import MAX_MS, MIN_MS, TimeRange
from marketd.market.history import History
from marketd.market.orchestrator import Bars, DataOrchestrator
from marketd.metrics import Metrics
from marketd.plugins import PluginContext
from marketd.plugins.feed import Feed
from marketd.plugins.sim.plugin import SimPlugin
from marketd.storage.sqlite import SQLiteStorage

MINUTE, HOUR = Timeframe.parse("1m"), Timeframe.parse("1h")


class Reader:
    """Asks as a request does, with caches in front of the store."""

    def __init__(self, storage: SQLiteStorage, feed: Feed) -> None:
        self.history = History(storage, Metrics(), [MemoryCache(10_000_000)])
        self._orchestrator = DataOrchestrator(
            self.history, request_timeout_ms=20_000, depth_ms=400 * DAY_MS
        )
        self._feed = feed

    async def ask(self, timeframe: Timeframe = MINUTE, **window: Any) -> Bars:
        question = {"since": None, "before": None, "limit": 200, **window}
        return await self._orchestrator.bars(self._feed, timeframe, **question)


def reader_of(storage: SQLiteStorage, plugin: ScriptedPlugin) -> Reader:
    return Reader(storage, feed_of(provider_of(plugin)))


@pytest.mark.parametrize("name", ["1m", "5m", "1h", "1w"])
async def test_a_cold_last_200_ends_at_the_newest_bar_of_every_timeframe(
    storage: SQLiteStorage, name: str
) -> None:
    bars = [bar(minute) for minute in range(30 * 1440)]
    plugin = scripted(bars, now_ms=bars[-1][0] + 30_000)
    plugin.page_limit = 10_000  # type: ignore[misc]
    timeframe = Timeframe.parse(name)
    found = await reader_of(storage, plugin).ask(timeframe)
    assert found.bars == resample(bars, timeframe)[-200:]
    assert found.bars[-1][0] == timeframe.floor(bars[-1][0])


async def test_one_new_cached_bar_does_not_shrink_the_cached_range(storage: SQLiteStorage) -> None:
    bars = [bar(minute) for minute in range(2_001)]
    plugin = scripted(bars[:2_000], now_ms=START + 2_000 * M)
    reader = reader_of(storage, plugin)
    for _ in range(3):
        await reader.ask(since=START, limit=5_000)
    plugin.calls.clear()
    plugin.bars.append(bars[-1])
    plugin.clock.advance(M)  # type: ignore[attr-defined]
    for _ in range(3):
        assert (await reader.ask(since=START, limit=5_000)).bars == bars
    assert all(call.start_ms >= START + 2_000 * M for call in plugin.calls)


async def test_a_weekend_does_not_end_a_backfill(storage: SQLiteStorage) -> None:
    friday = [bar(minute) for minute in range(300)]
    monday = [bar(3 * 1440 + minute) for minute in range(300)]
    plugin = scripted([*friday, *monday], now_ms=START + 4 * DAY_MS)
    feed = feed_of(provider_of(plugin))
    reader = Reader(storage, feed)
    brought = await reader.history.fill(feed, TimeRange(START, START + 4 * DAY_MS))
    assert brought.bars == 600
    assert (await reader.ask(since=START, limit=1_000)).bars == [*friday, *monday]


async def test_two_sources_never_give_two_answers(storage: SQLiteStorage) -> None:
    # Volumes whose sum depends on the order in which they are added up.
    bars = [bar(minute, volume=0.1 * minute) for minute in range(3_000)]
    plugin = scripted(bars, now_ms=START + 3_100 * M)
    reader = reader_of(storage, plugin)
    for timeframe in (MINUTE, Timeframe.parse("5m"), HOUR):
        # From the provider, from the store, and then from what was cached or computed ahead.
        answers = [await reader.ask(timeframe, since=START, limit=5_000) for _ in range(4)]
        answers.append(await reader_of(storage, plugin).ask(timeframe, since=START, limit=5_000))
        assert [one.bars for one in answers] == [resample(bars, timeframe)] * 5


async def test_a_provider_s_error_is_never_an_empty_answer(storage: SQLiteStorage) -> None:
    def fail(_: Sequence[Bar]) -> None:
        raise ProviderFailed("no.", transient=False)

    plugin = scripted([bar(0)], now_ms=START + 10 * M)
    plugin.answers = [fail] * 20
    reader = reader_of(storage, plugin)
    for window in ({}, {"since": START}, {"since": START, "before": START + 5 * M}):
        with pytest.raises(ProviderFailed):
            await reader.ask(**window)


async def test_a_forming_bar_that_was_seen_is_corrected_when_it_closes(storage: SQLiteStorage) -> None:
    plugin = scripted([bar(0), bar(1, close=5.0)], now_ms=START + M + 30_000)
    reader = reader_of(storage, plugin)
    assert (await reader.ask(since=START)).bars[-1] == bar(1, close=5.0)
    plugin.bars[1] = bar(1, close=6.0)
    plugin.clock.advance(2 * M)  # type: ignore[attr-defined]
    for _ in range(4):
        assert (await reader.ask(since=START)).bars[1] == bar(1, close=6.0)


async def test_years_of_days_and_weeks_are_not_made_of_minutes(storage: SQLiteStorage) -> None:
    now_ms = START + 30_000
    provider = provider_of(SimPlugin(PluginContext("test", ManualClock(now_ms))))
    await provider.open()
    for name, most in (("1d", 1_826), ("1w", 261), ("1M", 60)):
        base = provider.base_of(INSTRUMENT.symbol, Timeframe.parse(name))
        assert base == Timeframe.parse("1d")
        feed = Feed(provider, Series(INSTRUMENT, base), {}, TimeRange(MIN_MS, MAX_MS))
        found = await Reader(storage, feed).ask(
            Timeframe.parse(name), since=START - 5 * 365 * DAY_MS, limit=5_000
        )
        assert found.complete
        assert most - 3 <= len(found.bars) <= most + 1
    stored = await storage.series_list()
    assert [str(series.timeframe) for series in stored] == ["1d"]
