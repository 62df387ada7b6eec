"""The simulation as it happens: streams driven by a clock, and nothing but that clock."""

import asyncio
from collections.abc import AsyncIterator
from datetime import datetime
from typing import TypeVar

import pytest

from marketd.clock import ManualClock
from marketd.domain.bar import Bar, Tick
from marketd.domain.errors import UnknownSymbol, Unsupported
from marketd.domain.timeframe import DAY_MS, Timeframe
from marketd.plugins.base import BarUpdate, PluginContext
from marketd.plugins.sim import SimPlugin

T = TypeVar("T")

SECOND, MINUTE, DAY = (Timeframe.parse(text) for text in ("1s", "1m", "1d"))
MINUTE_MS = 60_000


def ms(text: str) -> int:
    return int(datetime.fromisoformat(f"{text}+00:00").timestamp() * 1000)


NOON_MS = ms("2024-03-06 12:00:20.5")
FRIDAY_NIGHT_MS = ms("2024-03-08 23:00")
MONDAY_OPEN_MS = ms("2024-03-11 13:30")


class LeapingClock(ManualClock):
    """A clock that is at once where somebody waits for it to be."""

    def __init__(self, now_ms: int) -> None:
        super().__init__(now_ms)
        self.waits = 0

    async def sleep_until(self, t_ms: int) -> None:
        self.waits += 1
        self.set(max(t_ms, self.now_ms()))


class AwaitedClock(ManualClock):
    """A clock that can be asked to say when somebody begins to wait for it."""

    def __init__(self, now_ms: int) -> None:
        super().__init__(now_ms)
        self.waited_for: asyncio.Queue[int] = asyncio.Queue()

    async def sleep_until(self, t_ms: int) -> None:
        self.waited_for.put_nowait(t_ms)
        await super().sleep_until(t_ms)


async def opened(clock: ManualClock, **settings: object) -> SimPlugin:
    plugin = SimPlugin(PluginContext("sim", clock, SimPlugin.settings_schema().load(settings)))
    await plugin.open()
    return plugin


async def until(stream: AsyncIterator[T], clock: ManualClock, end_ms: int) -> list[T]:
    """What the stream says before the clock reaches `end_ms`, and its first word at or after it."""
    said = []
    async for word in stream:
        said.append(word)
        if clock.now_ms() >= end_ms:
            break
    await close(stream)
    return said


async def close(stream: AsyncIterator[T]) -> None:
    await stream.aclose()  # type: ignore[attr-defined]


async def bars(
    plugin: SimPlugin, symbol: str, timeframe: Timeframe, since: int, before: int
) -> list[Bar]:
    return list(await plugin.fetch_ohlcv(symbol, timeframe, since, before, 10_000, {}))


def closed(updates: list[BarUpdate]) -> list[Bar]:
    return [bar for bar, is_closed in updates if is_closed]


@pytest.mark.parametrize(
    ("symbol", "timeframe", "since_ms", "length_ms"),
    [
        ("BTC/USD", SECOND, NOON_MS, 120_000),
        ("BTC/USD", MINUTE, NOON_MS, 5 * MINUTE_MS),
        ("DOGE/BTC", SECOND, NOON_MS, 60 * MINUTE_MS),
        ("DOGE/BTC", MINUTE, NOON_MS, 120 * MINUTE_MS),
        ("ACME", MINUTE, FRIDAY_NIGHT_MS, MONDAY_OPEN_MS + 20 * MINUTE_MS - FRIDAY_NIGHT_MS),
    ],
)
async def test_the_closed_bars_of_a_stream_are_those_of_the_history(
    symbol: str, timeframe: Timeframe, since_ms: int, length_ms: int
) -> None:
    clock = LeapingClock(since_ms)
    plugin = await opened(clock)
    updates = await until(plugin.stream_bars(symbol, timeframe), clock, since_ms + length_ms)
    told = closed(updates)
    # From the interval that held the present when the stream was asked for, to the last one told.
    since, before = timeframe.floor(since_ms), timeframe.floor(clock.now_ms())
    assert told == await bars(plugin, symbol, timeframe, since, before)
    assert len(told) > 2


async def test_a_bar_is_told_while_it_forms_and_then_once_when_it_has_closed() -> None:
    clock = LeapingClock(NOON_MS)
    plugin = await opened(clock)
    stream = plugin.stream_bars("BTC/USD", MINUTE)
    start, last_ms = MINUTE.floor(NOON_MS), 0
    forming: list[Bar] = []
    async for bar, is_closed in stream:
        now_ms = clock.now_ms()
        if is_closed:
            assert bar[0] == start
            assert now_ms == MINUTE.end(start)
            assert forming
            volumes = [state[5] or 0.0 for state in (*forming, bar)]
            assert volumes == sorted(volumes)
            assert len(set(volumes[:-1])) == len(forming)
            start, forming, last_ms = MINUTE.end(start), [], 0
        else:
            assert MINUTE.floor(now_ms) == bar[0] == start
            assert [bar] == await bars(plugin, "BTC/USD", MINUTE, start, start + 1)
            assert now_ms - last_ms >= 250
            forming.append(bar)
            last_ms = now_ms
        if bar[0] > NOON_MS + 3 * MINUTE_MS:
            break
    await close(stream)


async def test_a_day_forms_at_most_four_times_a_second() -> None:
    clock = LeapingClock(NOON_MS)
    plugin = await opened(clock)
    updates = await until(plugin.stream_bars("BTC/USD", DAY), clock, NOON_MS + 30_000)
    assert 30 <= len(updates) <= 4 * 30 + 1
    assert not closed(updates)


async def test_an_equity_forms_no_day_on_a_weekend_and_closes_it_at_midnight() -> None:
    clock = LeapingClock(ms("2024-03-09 10:00"))
    plugin = await opened(clock)
    stream = plugin.stream_bars("SPY", DAY)
    monday = ms("2024-03-11 00:00")
    first = await anext(stream)
    assert first.bar[0] == monday
    assert MONDAY_OPEN_MS <= clock.now_ms() < MONDAY_OPEN_MS + 5_000
    assert clock.waits == 1
    clock.set(monday + DAY_MS - 1)
    evening = await anext(stream)
    assert not evening.closed
    night = await anext(stream)
    assert night == BarUpdate(evening.bar, True)
    assert clock.now_ms() == monday + DAY_MS
    await close(stream)


async def test_what_has_closed_stays_closed_when_the_clock_is_put_back() -> None:
    clock = LeapingClock(NOON_MS)
    plugin = await opened(clock)
    stream = plugin.stream_bars("BTC/USD", SECOND)
    last_ms = 0
    for _ in range(40):
        bar, is_closed = await anext(stream)
        assert bar[0] > last_ms
        if is_closed:
            last_ms = bar[0]
            clock.set(clock.now_ms() - 100)
    assert last_ms > NOON_MS
    await close(stream)


@pytest.mark.parametrize("timeframe", [SECOND, MINUTE], ids=str)
async def test_a_late_stream_leaves_out_no_closed_bar(timeframe: Timeframe) -> None:
    clock = LeapingClock(NOON_MS)
    plugin = await opened(clock)
    stream = plugin.stream_bars("SOL/USD", timeframe)
    clock.advance(8 * 3_600_000)
    before = timeframe.floor(clock.now_ms())
    told = []
    async for bar, is_closed in stream:
        if bar[0] >= before:
            break
        assert is_closed
        told.append(bar)
    expected: list[Bar] = []
    since = timeframe.floor(NOON_MS)
    while page := await bars(plugin, "SOL/USD", timeframe, since, before):
        expected += page
        since = page[-1][0] + 1
    assert told == expected
    assert len(told) > 400
    await close(stream)


async def test_the_trades_of_a_stream_come_when_they_happen_and_leave_nothing_out() -> None:
    clock = LeapingClock(NOON_MS)
    plugin = await opened(clock)
    ticks: list[Tick] = []
    stream = plugin.stream_ticks("BTC/USD")
    while clock.now_ms() < NOON_MS + 2 * MINUTE_MS:
        batch = await anext(stream)
        assert [tick[0] for tick in batch] == [clock.now_ms()]
        ticks += batch
    await close(stream)
    assert all(tick[0] > NOON_MS for tick in ticks)
    # With the forming bar at the start they make up the next minute to the last bit.
    minute = MINUTE.ceil(NOON_MS)
    mine = [tick for tick in ticks if minute <= tick[0] < minute + MINUTE_MS]
    prices, sizes = [tick[1] for tick in mine], [tick[2] for tick in mine]
    bar = (minute, prices[0], max(prices), min(prices), prices[-1], sum(sizes))
    assert [bar] == await bars(plugin, "BTC/USD", MINUTE, minute, minute + 1)
    assert len({tick[4] for tick in ticks}) == len(ticks)


async def test_a_late_stream_leaves_out_no_trade() -> None:
    clock = ManualClock(NOON_MS)
    plugin = await opened(clock)
    stream = plugin.stream_ticks("ETH/USD")
    clock.advance(40 * MINUTE_MS)
    volume = 0.0
    last_ms = NOON_MS
    task = asyncio.ensure_future(anext(stream))
    batches = 0
    minute = MINUTE.ceil(NOON_MS)
    while last_ms < minute + 30 * MINUTE_MS:
        for t, _, size, _, _ in await task:
            assert t > last_ms
            last_ms = t
            volume += size if minute <= t < minute + 30 * MINUTE_MS else 0.0
        batches += 1
        task = asyncio.ensure_future(anext(stream))
    assert batches > 2
    history = await bars(plugin, "ETH/USD", MINUTE, minute, minute + 30 * MINUTE_MS)
    assert volume == sum(bar[5] or 0.0 for bar in history)
    await task
    await close(stream)


async def test_nothing_is_told_before_its_time() -> None:
    clock = AwaitedClock(NOON_MS)
    plugin = await opened(clock)
    stream = plugin.stream_ticks("BTC/USD")
    first = asyncio.ensure_future(anext(stream))
    next_ms = await clock.waited_for.get()
    clock.set(next_ms - 1)
    assert not first.done()
    clock.set(next_ms)
    assert [tick[0] for tick in await first] == [next_ms]
    await close(stream)


async def test_a_stream_that_waits_ends_when_its_reader_is_cancelled() -> None:
    clock = AwaitedClock(ms("2024-03-09 10:00"))
    plugin = await opened(clock)
    for stream in (plugin.stream_bars("SPY", MINUTE), plugin.stream_ticks("SPY")):
        reader = asyncio.ensure_future(anext(stream))
        # Nobody trades on a Saturday: one wait, until Monday.
        assert await clock.waited_for.get() >= MONDAY_OPEN_MS
        reader.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reader
        await close(stream)
        assert clock.waited_for.empty()
        with pytest.raises(StopAsyncIteration):
            await anext(stream)


async def test_a_stream_ends_with_the_last_session() -> None:
    end_ms = ms("2100-01-01 00:00")
    clock = LeapingClock(end_ms - 3_000)
    plugin = await opened(clock)
    updates = [update async for update in plugin.stream_bars("BTC/USD", MINUTE)]
    assert closed(updates) == await bars(plugin, "BTC/USD", MINUTE, end_ms - MINUTE_MS, end_ms)
    clock.set(end_ms - 3_000)
    assert [batch async for batch in plugin.stream_ticks("BTC/USD")]


async def test_a_fast_exchange_says_no_more_than_twenty_things_a_real_second() -> None:
    outer = LeapingClock(NOON_MS)
    plugin = await opened(outer, speed=600)
    begin_ms = outer.now_ms()
    stream = plugin.stream_bars("BTC/USD", MINUTE)
    forming = 0
    told = []
    while outer.now_ms() < begin_ms + 2_000:
        bar, is_closed = await anext(stream)
        told += [bar] if is_closed else []
        forming += not is_closed
    await close(stream)
    assert 20 <= forming <= 41
    assert [bar[0] for bar in told] == [MINUTE.floor(NOON_MS) + n * MINUTE_MS for n in range(len(told))]
    assert 19 <= len(told) <= 21
    ticks = plugin.stream_ticks("BTC/USD")
    begin_ms = outer.now_ms()
    batches = await until(ticks, outer, begin_ms + 2_000)
    assert 20 <= len(batches) <= 41


async def test_a_stream_of_what_is_not_there_is_refused() -> None:
    plugin = await opened(ManualClock(NOON_MS))
    with pytest.raises(UnknownSymbol, match="NONE"):
        plugin.stream_bars("NONE", MINUTE)
    with pytest.raises(UnknownSymbol):
        plugin.stream_ticks("NONE")
    with pytest.raises(Unsupported, match="5m"):
        plugin.stream_bars("BTC/USD", Timeframe.parse("5m"))
