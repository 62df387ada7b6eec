"""Live bars of a provider that streams trades alone: made of them as they come, and never of a part."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import asyncpg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted import INSTRUMENT, MINUTE, START, M, RememberingPlugin, TickingPlugin, scripted
from servers.postgres import PostgresServer
from world import STALL_MS, Client, World

from marketd.clock import ManualClock
from marketd.domain.bar import Bar, Tick, open_time
from marketd.domain.coverage import Gap, Reason
from marketd.domain.errors import ProviderFailed
from marketd.domain.resample import resample
from marketd.domain.tick_bars import bars_of_ticks
from marketd.domain.timeframe import Timeframe
from marketd.domain.timerange import TimeRange
from marketd.plugins.feed import TickFeed
from marketd.storage import Storage
from marketd.storage.postgres import PostgresStorage
from marketd.storage.sqlite import SQLiteStorage

S = 1_000
DAY, FIVE = Timeframe.parse("1d"), Timeframe.parse("5m")
# A sign of life proves the time before it, but for what may be on its way.
LAG = 1_000


def tick(ms: int, price: float = 100.0, size: float = 0.1) -> Tick:
    return (START + ms, price, size, "buy", str(ms))


class Trading:
    """A world whose provider has trades and days, and nothing between."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.plugin: Any = world.plugin
        self.clock = world.clock
        self.said: list[Tick] = []

    async def says(self, *ticks: Tick, at: int | None = None) -> None:
        """Time passes, the stream says these, and they are stored."""
        last_ms = ticks[-1][0] if at is None else START + at
        self.clock.set(max(self.clock.now_ms(), last_ms))
        self.said += ticks
        self.plugin.past = sorted(self.said)
        self.plugin.batches.put_nowait(list(ticks))
        async with asyncio.timeout(5):
            while ticks and ticks[-1] not in await self.stored():  # noqa: ASYNC110 - behind the queue
                await asyncio.sleep(0.001)

    async def is_alive(self, ms: int) -> None:
        """Time passes, and the stream says that there was no trade."""
        self.clock.set(START + ms)
        self.plugin.batches.put_nowait([])
        async with asyncio.timeout(5):
            while not self.plugin.batches.empty():  # noqa: ASYNC110 - the plugin takes it
                await asyncio.sleep(0.001)

    async def breaks(self) -> None:
        """The stream is lost, and begun anew."""
        streams = self.plugin.streams
        self.plugin.batches.put_nowait(ProviderFailed("gone."))
        async with asyncio.timeout(5):
            while self.plugin.streams == streams:  # noqa: ASYNC110 - the plugin has no event for it
                await asyncio.sleep(0.001)

    async def stored(self) -> list[Tick]:
        span = TimeRange(START - M, START + 100 * M)
        return (await self.world.storage.read_ticks(INSTRUMENT, span, limit=10_000)).ticks

    async def until(self, ms: int) -> None:
        """Time passes, in the steps of somebody who waits for it."""
        while self.clock.now_ms() < START + ms:
            self.clock.set(min(self.clock.now_ms() + 500, START + ms))
            await asyncio.sleep(0.002)

    async def bars(self) -> tuple[list[Bar], list[Gap]]:
        """What a read gives of all that was followed."""
        found = await self.world.orchestrator.bars(
            self.world.feed, MINUTE, since=START, before=None, limit=1_000
        )
        return found.bars, found.gaps


def trading(
    storage: Storage, cls: type[Any], stall_ms: int = 10 * M, clock: ManualClock | None = None
) -> Trading:
    clock = clock or ManualClock(START)
    plugin: Any = scripted([], now_ms=START, cls=cls, clock=clock, timeframes=[DAY])
    return Trading(World(storage, plugin, clock, stall_ms=stall_ms))


@pytest.fixture
async def make(storage: SQLiteStorage) -> AsyncIterator[Callable[..., Trading]]:
    await storage.open()
    made: list[Trading] = []

    def one(cls: type[Any] = TickingPlugin, **options: Any) -> Trading:
        made.append(trading(storage, cls, **options))
        return made[-1]

    yield one
    for each in made:
        await each.world.supervisor.stop()
    await storage.close()


async def formed(client: Client) -> Bar:
    message = await client.next("bar")
    assert not message["closed"]
    return tuple(message["bar"])


@pytest.mark.parametrize("cls", [TickingPlugin, RememberingPlugin])
async def test_a_bar_forms_with_each_trade_and_closes_as_the_bar_of_all(
    make: Callable[..., Trading], cls: type[Any]
) -> None:
    market = make(cls)
    client = market.world.client()
    await market.world.join(client, MINUTE, START)
    await market.says(tick(-1), tick(0))
    await market.says(tick(10 * S, 101.0))
    while (bar := await formed(client))[4] != 101.0:
        pass
    assert [bar] == bars_of_ticks(market.said[1:], MINUTE)
    await market.says(tick(20 * S, 99.0, 0.7))
    assert [await formed(client)] == bars_of_ticks(market.said[1:], MINUTE)
    await market.says(tick(15 * S, 98.0), at=21 * S)
    assert [await formed(client)] == bars_of_ticks(sorted(market.said[1:]), MINUTE)
    await market.says(tick(M + 100))
    await market.until(M + 2 * S)
    assert await client.closed(1) == bars_of_ticks(sorted(market.said[1:-1]), MINUTE)
    bars, gaps = await market.bars()
    assert (bars, gaps) == (bars_of_ticks(sorted(market.said[1:]), MINUTE), [])


async def test_a_stream_that_says_it_is_alive_proves_that_there_was_no_trade(
    make: Callable[..., Trading],
) -> None:
    market = make()
    client = market.world.client()
    await market.world.join(client, MINUTE, START)
    await market.says(tick(-1), tick(S))
    for ms in range(2 * S, 3 * M + 3 * S, 10 * S):
        await market.is_alive(ms)
    await market.says(tick(3 * M + 5 * S))
    await market.until(4 * M)
    await market.is_alive(4 * M + LAG + S)
    await market.until(4 * M + 3 * S)
    expected = bars_of_ticks(market.said[1:], MINUTE)
    assert await client.closed(2) == expected
    assert await market.bars() == (expected, [])


async def test_until_a_quiet_stream_speaks_its_last_interval_is_pending_and_not_told(
    make: Callable[..., Trading],
) -> None:
    market = make()
    client = market.world.client()
    await market.world.join(client, MINUTE, START)
    await market.says(tick(-1), tick(S))
    await market.until(M + 5 * S)
    assert await market.bars() == ([], [Gap(START, START + M, Reason.PENDING)])
    await market.says(tick(M + 6 * S))
    await market.until(M + 8 * S)
    assert await client.closed(1) == bars_of_ticks([tick(S)], MINUTE)


async def test_a_process_that_does_not_follow_waits_a_while_for_one_that_does(
    postgres_server: PostgresServer,
) -> None:
    connection = await asyncpg.connect(postgres_server.url())
    await connection.execute("CREATE SCHEMA IF NOT EXISTS unfollowed")
    await connection.close()
    url = f"{postgres_server.url()}?search_path=unfollowed"
    clock = ManualClock(START)
    stores = [PostgresStorage(url, connections=2) for _ in range(2)]
    for storage in stores:
        await storage.open()
    market, other = (trading(storage, TickingPlugin, clock=clock) for storage in stores)
    try:
        client = market.world.client()
        await market.world.join(client, MINUTE, START)
        await market.says(tick(-1), tick(S))
        clock.set(START + M + 2 * S)
        span = TimeRange(START, START + 2 * M)
        tape = await other.world.tapes.read(TickFeed(other.world.provider, INSTRUMENT), span, limit=9)
        assert tape.gaps == [Gap(START + S, START + M + 2 * S + 1, Reason.PENDING)]
        assert await other.bars() == ([], [Gap(START, START + 2 * M, Reason.PENDING)])
        await market.says(tick(M + 3 * S))
        bars = bars_of_ticks([tick(S), tick(M + 3 * S)], MINUTE)
        assert await other.bars() == (bars, [])
        # What it has missed itself nobody else is waited for.
        await market.breaks()
        await market.says(tick(2 * M + 3 * S))
        lost = Gap(START + M, START + 3 * M, Reason.UNRECOVERABLE)
        assert await other.bars() == (bars[:1], [lost])
        await market.world.supervisor.stop()
        clock.set(START + 18 * M)
        assert await other.bars() == (
            bars[:1],
            [lost, Gap(START + 3 * M, START + 18 * M, Reason.PENDING)],
        )
    finally:
        for each in (market, other):
            await each.world.supervisor.stop()
            await each.world.storage.close()


async def test_without_a_stream_the_history_of_trades_is_polled(make: Callable[..., Trading]) -> None:
    market = make(RememberingPlugin)
    market.plugin.has_tick_stream = False
    market.plugin.past = [tick(S), tick(10 * S, 101.0)]
    client = market.world.client()
    await market.world.join(client, MINUTE, START)
    await market.until(20 * S)
    while [await formed(client)] != bars_of_ticks(market.plugin.past, MINUTE):
        pass
    await market.until(M + 3 * S)
    assert await client.closed(1) == bars_of_ticks(market.plugin.past, MINUTE)
    assert market.plugin.streams == 0


@pytest.mark.parametrize("wrong", [False, True])
async def test_an_interval_with_a_break_is_a_gap_and_the_next_one_is_whole(
    make: Callable[..., Trading], wrong: bool
) -> None:
    market = make()
    client = market.world.client()
    await market.world.join(client, MINUTE, START)
    await market.says(tick(-1), tick(S))
    await market.says(tick(M + S))
    await market.until(M + 2 * S)
    assert await client.closed(1) == bars_of_ticks([tick(S)], MINUTE)
    if wrong:
        # A trade that is refused leaves a hole, too.
        market.plugin.batches.put_nowait([(START + M + 3 * S, -1.0, 1.0, "buy", "")])
    else:
        await market.breaks()
        assert (await client.next("status"))["state"] == "down"
    await market.says(tick(2 * M + S))
    await market.says(tick(3 * M + S), tick(3 * M + 2 * S))
    await market.says(tick(4 * M + S))
    await market.until(4 * M + 2 * S)
    since_ms = START + M
    while since_ms < START + 3 * M:
        gap = await client.next("gap")
        assert (gap["start"], gap["reason"]) == (since_ms, "unrecoverable")
        since_ms = gap["end"]
    assert await client.closed(1) == bars_of_ticks(market.said[4:6], MINUTE)
    bars, gaps = await market.bars()
    assert [bar[0] for bar in bars] == [START, START + 3 * M, START + 4 * M]
    assert gaps == [Gap(START + M, START + 3 * M, Reason.UNRECOVERABLE)]


async def test_a_silent_stream_is_begun_anew_where_nobody_can_be_asked(
    make: Callable[..., Trading],
) -> None:
    market = make(stall_ms=STALL_MS)
    client = market.world.client()
    await market.world.join(client, MINUTE, START)
    await market.says(tick(-1), tick(S))
    await market.until(S + STALL_MS + S)
    assert (await client.next("status"))["state"] == "stale"
    async with asyncio.timeout(5):
        while market.plugin.streams < 2:  # noqa: ASYNC110 - the plugin has no event for it
            await asyncio.sleep(0.01)
    await market.says(tick(50 * S))
    assert (await client.next("status"))["state"] == "live"


@pytest.mark.parametrize("cls", [TickingPlugin, RememberingPlugin])
async def test_a_late_trade_reaches_subscribers_of_every_timeframe_as_a_revision(
    make: Callable[..., Trading], cls: type[Any]
) -> None:
    market = make(cls)
    minutes, fives = market.world.client(), market.world.client()
    await market.world.join(minutes, MINUTE, START)
    await market.world.join(fives, FIVE, START)
    await market.says(tick(-1), tick(S))
    for minute in range(1, 7):
        await market.says(tick(minute * M + S))
    await market.until(6 * M + 2 * S)
    await minutes.closed(6)
    await fives.closed(1)
    for rev, late in enumerate((tick(2 * M + 2 * S, 200.0), tick(2 * M + 3 * S, 300.0)), 1):
        await market.says(late, at=6 * M + 3 * S)
        for client, timeframe in ((minutes, MINUTE), (fives, FIVE)):
            while (message := await client.next("bar"))["rev"] != rev:
                pass
            expected = resample(bars_of_ticks(sorted(market.said[1:]), MINUTE), timeframe)
            assert tuple(message["bar"]) in expected


# What a stream does: trades after so many seconds, a sign of life, or a break.
ACTS = st.lists(
    st.tuples(st.sampled_from(["trades", "trades", "alive", "break"]), st.integers(1, 70)),
    min_size=3,
    max_size=12,
)


@given(acts=ACTS)
@settings(max_examples=4)
def test_whatever_a_stream_does_bars_are_made_of_all_their_trades_or_are_gaps(
    tmp_path_factory: pytest.TempPathFactory, acts: Sequence[tuple[str, int]]
) -> None:
    async def check() -> None:
        storage = SQLiteStorage(tmp_path_factory.mktemp("bars") / "bars.db")
        await storage.open()
        market = trading(storage, TickingPlugin)
        try:
            await play(market)
        finally:
            await market.world.supervisor.stop()
            await storage.close()

    async def play(market: Trading) -> None:
        client = market.world.client()
        await market.world.join(client, MINUTE, START)
        ms = 0
        broken = [TimeRange(START - M, START + 1)]
        is_broken = False
        await market.says(tick(0))
        for act, seconds in acts:
            if act == "break":
                broken.append(TimeRange(START + ms, START + ms))
                await market.breaks()
                is_broken = True
                continue
            ms += seconds * S
            if act == "alive" and not is_broken:
                await market.is_alive(ms)
            else:
                await market.says(tick(ms, 100.0 + seconds))
            if is_broken:
                broken[-1] = TimeRange(broken[-1].start_ms, START + ms + 1)
                is_broken = False
        end_ms = (ms // M + 1) * M
        await market.says(tick(end_ms + S))
        if is_broken:
            broken[-1] = TimeRange(broken[-1].start_ms, START + end_ms + S + 1)
        await market.until(end_ms + 3 * S)
        bars, gaps = await market.bars()
        whole = [
            bar
            for bar in bars_of_ticks(sorted(market.said, key=open_time), MINUTE)
            if all(TimeRange(bar[0], bar[0] + M).clip(piece).is_empty for piece in broken)
        ]
        assert bars == whole
        assert all(gap.reason is Reason.UNRECOVERABLE for gap in gaps)
        missing = {t_ms for gap in gaps for t_ms in range(gap.start_ms, gap.end_ms, M)}
        touched = {
            t_ms
            for t_ms in range(START, START + end_ms + M, M)
            if any(not TimeRange(t_ms, t_ms + M).clip(piece).is_empty for piece in broken)
        }
        assert missing == touched

    asyncio.run(check())
