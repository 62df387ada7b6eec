"""What the store is told of a range: why it has the bars that it has, or why it has none."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from typing import Any

from scripted import INSTRUMENT, MINUTE, START, M, ScriptedPlugin, bar, feed_of, provider_of, scripted

from marketd.clock import ManualClock
from marketd.domain.bar import Bar
from marketd.domain.coverage import Covered, Gap, Reason
from marketd.domain.errors import ProviderFailed
from marketd.domain.instrument import Instrument, Series
from marketd.domain.timeframe import DAY_MS, Timeframe
from marketd.domain.timerange import MAX_MS, MIN_MS, TimeRange
from marketd.market.history import History, HistoryRead
from marketd.metrics import Metrics
from marketd.plugins import MarketHours, MarketPlugin, PluginContext
from marketd.plugins.feed import Feed
from marketd.plugins.provider import Provider
from marketd.plugins.sim.plugin import SimPlugin
from marketd.storage.sqlite import SQLiteStorage

SPY = Instrument("us_equity", "test", "SPY")
DAY = Timeframe.parse("1d")
EVER = TimeRange(MIN_MS, MAX_MS)
WRONG: Bar = (START + 4 * M, 1.0, 0.5, 2.0, 1.0, 1.0)
BARS = [bar(minute) for minute in range(10)]
FLAWED = [*BARS[:4], WRONG, *BARS[5:]]


class Hours(ScriptedPlugin, MarketHours):
    """Open for the first ten minutes of every hour, and says so."""

    def closed(self, symbol: str, since: int, before: int) -> Any:
        hour = 60 * M
        return [(t + 10 * M, t + hour) for t in range(since - since % hour, before, hour)]


class Confused(ScriptedPlugin, MarketHours):
    """Does not know what a range is."""

    def closed(self, symbol: str, since: int, before: int) -> Any:
        return [("Monday", None)]


async def opened(plugin: MarketPlugin) -> Provider:
    provider = provider_of(plugin)
    await provider.open()
    return provider


def fail(_: Sequence[Bar]) -> None:
    raise ProviderFailed("no.", transient=False)


def minutes(start: int, end: int) -> TimeRange:
    return TimeRange(START + start * M, START + end * M)


def of(start: int, end: int, reason: Reason) -> Covered:
    return Covered(*minutes(start, end), reason)


async def read(history: History, feed: Feed, start: int, end: int) -> HistoryRead:
    return await history.read(feed, minutes(start, end), limit=10_000, newest=False, deadline_s=1e9)


async def coverage(storage: SQLiteStorage, timeframe: Timeframe = MINUTE) -> list[Covered]:
    return (await storage.read(Series(INSTRUMENT, timeframe), EVER, limit=0)).coverage


async def statements(storage: SQLiteStorage) -> Callable[[], list[str]]:
    """What is said to SQLite from now on."""
    said: list[str] = []
    connection = storage._connection
    assert connection is not None

    def listen(raw: sqlite3.Connection) -> None:
        raw.set_trace_callback(said.append)

    await connection.run(listen)
    return lambda: [" ".join(text.split()) for text in said]


async def test_an_answer_with_bars_is_data_and_a_long_one_without_is_no_trades(
    storage: SQLiteStorage,
) -> None:
    feed = feed_of(provider_of(scripted(BARS, now_ms=START + 9_000 * M)))
    history = History(storage, Metrics())
    await read(history, feed, 0, 20)
    await read(history, feed, 20, 3_000)
    assert await coverage(storage) == [of(0, 20, Reason.DATA), of(20, 3_000, Reason.NO_TRADES)]


async def test_a_market_that_is_quiet_now_and_then_does_not_take_a_row_for_each_moment(
    storage: SQLiteStorage,
) -> None:
    plugin = scripted([bar(minute) for minute in range(0, 300, 3)], now_ms=START + 300 * M)
    feed = feed_of(provider_of(plugin))
    history = History(storage, Metrics())
    for minute in range(300):
        await read(history, feed, minute, minute + 1)
    assert await coverage(storage) == [of(0, 300, Reason.DATA)]


# What cannot be right


async def test_what_cannot_be_right_is_told_again_without_asking_again(storage: SQLiteStorage) -> None:
    plugin = scripted(FLAWED, now_ms=START + 10 * M)
    feed = feed_of(provider_of(plugin))
    history = History(storage, Metrics())
    gap = [of(4, 5, Reason.UNRECOVERABLE)]
    for _ in range(3):
        found = await read(history, feed, 0, 10)
        assert (found.bars, found.gaps) == ([*BARS[:4], *BARS[5:]], gap)
    assert plugin.calls == [minutes(0, 10)]
    assert await history.gaps(feed, minutes(0, 10)) == gap
    assert await coverage(storage) == [of(0, 4, Reason.DATA), *gap, of(5, 10, Reason.DATA)]


async def test_what_cannot_be_right_is_asked_for_once_more_after_a_start(
    storage: SQLiteStorage,
) -> None:
    plugin = scripted(FLAWED, now_ms=START + 10 * M)
    feed = feed_of(provider_of(plugin))
    await read(History(storage, Metrics()), feed, 0, 10)
    restarted = History(storage, Metrics())
    for _ in range(3):
        await read(restarted, feed, 0, 10)
    assert plugin.calls == [minutes(0, 10), minutes(4, 5)]
    plugin.bars = BARS
    found = await read(History(storage, Metrics()), feed, 0, 10)
    assert (found.bars, found.gaps) == (BARS, [])
    assert await coverage(storage) == [of(0, 10, Reason.DATA)]


async def test_what_cannot_be_right_is_asked_for_again_after_an_hour(
    storage: SQLiteStorage,
) -> None:
    clock = ManualClock(START + 10 * M)
    plugin = scripted(FLAWED, now_ms=clock.now_ms(), clock=clock)
    feed = feed_of(provider_of(plugin))
    history = History(storage, Metrics())
    await read(history, feed, 0, 10)
    clock.advance(3_599_000)
    await read(history, feed, 0, 10)
    assert len(plugin.calls) == 1
    clock.advance(2_000)
    await read(history, feed, 0, 10)
    assert plugin.calls[1:] == [minutes(4, 5)]


# A provider that fails


async def test_a_failure_is_told_as_such_until_an_answer_comes(storage: SQLiteStorage) -> None:
    plugin = scripted(BARS, now_ms=START + 10 * M)
    feed = feed_of(provider_of(plugin))
    history = History(storage, Metrics())
    await read(history, feed, 0, 4)
    plugin.answers = [fail]
    await read(history, feed, 2, 8)
    assert await history.gaps(feed, minutes(0, 10)) == [
        of(4, 8, Reason.FEED_DOWN),
        of(8, 10, Reason.PENDING),
    ]
    assert (await read(history, feed, 0, 10)).bars == BARS
    assert await history.gaps(feed, minutes(0, 10)) == []


async def test_a_failure_is_written_once_however_often_it_comes(storage: SQLiteStorage) -> None:
    plugin = scripted(FLAWED, now_ms=START + 10 * M)
    feed = feed_of(provider_of(plugin))
    await read(History(storage, Metrics()), feed, 0, 6)
    plugin.answers = [fail] * 20
    said = await statements(storage)
    for start in (5, 0, 5, 5, 0):
        # Each after a start, so that what cannot be right is asked for again, too.
        await read(History(storage, Metrics()), feed, start, 10)
    assert len(plugin.calls) == 6
    assert [text for text in said() if text == "COMMIT"] == ["COMMIT"]
    assert await coverage(storage) == [
        of(0, 4, Reason.DATA),
        of(4, 5, Reason.UNRECOVERABLE),
        of(5, 6, Reason.DATA),
        of(6, 10, Reason.FEED_DOWN),
    ]


# Market hours


async def test_no_provider_is_asked_for_bars_of_a_closed_market(storage: SQLiteStorage) -> None:
    plugin = scripted(BARS, now_ms=START + 600 * M, cls=Hours)
    provider = await opened(plugin)
    feed = feed_of(provider)
    history = History(storage, Metrics())
    for start, end in ((12, 60), (20, 50), (0, 60), (130, 150)):
        assert (await read(history, feed, start, end)).gaps == []
    assert plugin.calls == [minutes(0, 10)]
    assert await coverage(storage) == [
        of(0, 10, Reason.DATA),
        of(10, 60, Reason.CLOSED),
        of(130, 150, Reason.CLOSED),
    ]


async def test_one_page_goes_across_many_sessions(storage: SQLiteStorage) -> None:
    plugin = scripted(
        [bar(hour * 60 + m) for hour in range(9) for m in range(10)], now_ms=START + DAY_MS
    )
    plugin = Hours(plugin.context, plugin.bars, plugin.timeframes)
    found = await read(History(storage, Metrics()), feed_of(await opened(plugin)), 0, 540)
    assert (found.bars, found.gaps) == (plugin.bars, [])
    assert plugin.calls == [minutes(0, 490)]
    assert [one.reason for one in await coverage(storage)] == [Reason.DATA, Reason.CLOSED] * 9


async def test_where_a_calendar_is_wrong_the_bar_is_right(storage: SQLiteStorage) -> None:
    bars = [*BARS, bar(30), bar(60)]
    plugin = scripted(bars, now_ms=START + 600 * M, cls=Hours)
    found = await read(History(storage, Metrics()), feed_of(await opened(plugin)), 0, 70)
    assert found.bars == bars
    assert await coverage(storage) == [of(0, 70, Reason.DATA)]


async def test_a_closed_market_has_no_forming_bar_to_ask_for(storage: SQLiteStorage) -> None:
    plugin = scripted(BARS, now_ms=START + 30 * M + 5_000, cls=Hours)
    found = await read(History(storage, Metrics()), feed_of(await opened(plugin)), 0, 31)
    assert (found.bars, found.gaps) == (BARS, [])
    assert plugin.calls == [minutes(0, 10)]


async def test_a_plugin_that_is_confused_about_its_hours_costs_its_own_requests(
    storage: SQLiteStorage,
) -> None:
    plugin = scripted(BARS, now_ms=START + 600 * M, cls=Confused)
    provider = await opened(plugin)
    found = await read(History(storage, Metrics()), feed_of(provider), 0, 10)
    assert found.gaps == [of(0, 10, Reason.FEED_DOWN)]
    assert isinstance(found.failure, ProviderFailed)
    assert provider.health.state == "down"


async def test_a_weekend_of_the_simulated_exchange_costs_no_call(storage: SQLiteStorage) -> None:
    friday, weekend = 1_709_856_000_000, 1_709_942_400_000  # 2024-03-08 and the day after
    provider = await opened(SimPlugin(PluginContext("test", ManualClock(weekend + 2 * DAY_MS))))
    calls = provider._metrics.fetch_seconds.labels("test")
    history = History(storage, Metrics())
    for timeframe in (MINUTE, DAY):
        feed = Feed(provider, Series(SPY, timeframe), {}, EVER)
        for span, reason in (
            (TimeRange(weekend, weekend + 2 * DAY_MS), Reason.CLOSED),
            (TimeRange(friday, weekend), Reason.DATA),
        ):
            before = calls._sum.get()
            await history.read(feed, span, limit=10_000, newest=True, deadline_s=1e9)
            assert (calls._sum.get() == before) is (reason is Reason.CLOSED)
            stored = await storage.read(feed.series, span, limit=0)
            assert reason in {one.reason for one in stored.coverage}
            assert not await history.gaps(feed, span)


# Gaps


async def test_ten_years_of_gaps_are_told_without_reading_a_bar_or_many_rows(
    storage: SQLiteStorage,
) -> None:
    ten_years = 10 * 365 * 1440
    # Whole pages, each proven by itself.
    pages = [of(n * 1_000, (n + 1) * 1_000, Reason.DATA) for n in range(ten_years // 1_000)]
    bars = [bar(minute) for minute in range(0, ten_years, 50)]
    series = Series(INSTRUMENT, MINUTE)
    await storage.store(series, bars, [*pages[:2_000], *pages[2_001:]], at_ms=START)
    plugin = scripted([], now_ms=START + ten_years * M)
    said = await statements(storage)
    gaps = await History(storage, Metrics()).gaps(feed_of(provider_of(plugin)), minutes(0, ten_years))
    assert gaps == [Gap(*pages[2_000].range, Reason.PENDING)]
    assert plugin.calls == []
    assert len(await coverage(storage)) == 2
    assert not [text for text in said() if "FROM bar" in text]
