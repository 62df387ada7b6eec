"""Trades live: one upstream, stored before they are told, each told once, and joined to history."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted import START, RememberingPlugin, TickingPlugin, bar
from taped_world import STALL, MakeTaped, S, TapeWorld, passing, tick, trades
from world import Client

from marketd.clock import ScaledClock
from marketd.domain.bar import Tick
from marketd.domain.coverage import Covered, Gap, Reason
from marketd.domain.errors import ProviderFailed, StorageFailed, Unsupported
from marketd.storage import AddedTicks
from marketd.storage.sqlite import SQLiteStorage
from marketd.streaming.ring import Cursor


async def test_a_trade_is_stored_and_then_told_to_everybody_by_one_upstream(
    make_taped: MakeTaped,
) -> None:
    world = make_taped()
    clients = [Client(world.broadcast) for _ in range(20)]
    for client in clients:
        await world.join(client)
    world.says(tick(10), tick(20))
    for client in clients:
        message = await client.next("tick")
        assert [tuple(one) for one in message["ticks"]] == await world.stored()
        assert message["channel"] == "ticks"
    assert world.plugin.streams == 1
    assert world.service.feeds("test") == {"live": 1, "stale": 0, "down": 0}


async def test_it_is_counted_who_subscribes_and_how_late_a_trade_is_told(
    make_taped: MakeTaped,
) -> None:
    world = make_taped()
    clients = [Client(world.broadcast) for _ in range(3)]
    for client in clients:
        await world.join(client)
    world.says(tick(10), tick(20), at=120)
    for client in clients:
        await client.next("tick")

    def value(name: str, **labels: str) -> float | None:
        return world.metrics.registry.get_sample_value(f"marketd_stream_{name}", labels)

    assert value("subscribes_total") == value("subscriptions") == 3
    assert value("tick_lag_seconds_count", provider="test") == 1
    assert value("tick_lag_seconds_sum", provider="test") == pytest.approx(0.1)


async def test_who_has_asked_from_a_time_to_come_misses_no_trade(make_taped: MakeTaped) -> None:
    world = make_taped()
    client, returned = Client(world.broadcast), Client(world.broadcast)
    await world.join(client, since=START + 60 * S)
    cursor = Cursor.parse((await client.next("snapshot"))["cursor"], field="resume")
    world.says(tick(10), tick(20))
    await trades(client, 2)
    # Nobody knows this ring any more, as after a restart.
    await world.join(returned, resume=cursor._replace(ring="gone").token())
    assert await trades(returned, 2) == [tick(10), tick(20)]


async def test_what_was_on_its_way_when_a_client_joined_is_told_when_it_comes_back(
    make_taped: MakeTaped,
) -> None:
    world = make_taped()
    client = Client(world.broadcast)
    await world.join(client, since=START - 10 * S)
    world.says(tick(-100))
    cursors = [(await client.next(kind))["cursor"] for kind in ("snapshot", "tick")]
    world.says(tick(-50))
    await trades(client, 1)
    for cursor in cursors:
        # Nobody knows this ring any more, as at another node.
        elsewhere = Cursor.parse(cursor, field="resume")._replace(ring="gone")
        returned = Client(world.broadcast)
        await world.join(returned, resume=elsewhere.token())
        assert await trades(returned, 2) == [tick(-100), tick(-50)]


async def test_the_upstream_ends_some_time_after_its_last_client(make_taped: MakeTaped) -> None:
    world = make_taped()
    client = Client(world.broadcast)
    subscription, _ = await world.join(client)
    world.says(tick(1))
    await trades(client, 1)
    world.service.unsubscribe(world.feed, subscription)
    async with asyncio.timeout(30):
        await world.plugin.ended.wait()
    assert world.service.feeds("test")["live"] == 0


async def test_a_trade_that_is_told_again_is_known_by_its_id(make_taped: MakeTaped) -> None:
    world = make_taped()
    client = Client(world.broadcast)
    await world.join(client)
    world.says(tick(10, "a"), tick(20, "b"))
    world.says(tick(20, "b"), tick(20, "c"))
    world.says(tick(21, "c"), tick(30, "d"))
    assert [one[4] for one in await trades(client, 4)] == ["a", "b", "c", "d"]


async def test_trades_without_an_id_that_are_alike_are_all_told(make_taped: MakeTaped) -> None:
    world = make_taped()
    client = Client(world.broadcast)
    await world.join(client)
    for _ in range(3):
        world.says(tick(10, ""))
    world.says(tick(11, ""))
    assert await trades(client, 4) == [tick(10, "")] * 3 + [tick(11, "")]
    assert len(await world.stored()) == 4


async def test_a_connection_proves_the_time_between_its_trades(make_taped: MakeTaped) -> None:
    world = make_taped()
    client = Client(world.broadcast)
    await world.join(client)
    world.says(tick(10))
    world.says(tick(500), tick(900))
    await trades(client, 3)
    proven = Covered(START + 11, START + 900, Reason.DATA)
    assert await world.coverage() == [Covered(START, START + 11, Reason.UNRECOVERABLE), proven]


async def test_without_a_history_what_a_lost_connection_missed_is_told_as_a_gap(
    make_taped: MakeTaped,
) -> None:
    world = make_taped()
    client = Client(world.broadcast)
    await world.join(client)
    world.says(tick(10), tick(20))
    await trades(client, 2)
    world.plugin.batches.put_nowait(ProviderFailed("gone."))
    assert (await client.next("status"))["state"] == "down"
    world.says(tick(90))
    gap = await client.next("gap")
    assert (gap["start"], gap["end"], gap["reason"]) == (START + 20, START + 91, "unrecoverable")
    assert (await client.next("status"))["state"] == "live"


async def test_with_a_history_what_was_missed_is_fetched_and_told(make_taped: MakeTaped) -> None:
    world = make_taped(RememberingPlugin)
    client = Client(world.broadcast)
    await world.join(client)
    world.says(tick(10), tick(20))
    await trades(client, 2)
    world.plugin.past = [tick(ms * 10) for ms in range(1, 30)]
    world.plugin.batches.put_nowait(ProviderFailed("gone."))
    await client.next("status")
    world.says(tick(290))
    clock = asyncio.create_task(passing(world.clock))
    told = await trades(client, 27)
    clock.cancel()
    assert told[0] == tick(290)
    assert sorted(told) == world.plugin.past[2:]
    (known,) = await world.coverage()
    assert known.start_ms == START
    assert known.reason is Reason.DATA


@pytest.mark.parametrize("cls", [TickingPlugin, RememberingPlugin])
async def test_a_connection_made_anew_in_a_quiet_market_is_well(
    make_taped: MakeTaped, cls: type[Any]
) -> None:
    world = make_taped(cls)
    client = Client(world.broadcast)
    await world.join(client)
    world.says(tick(10))
    await trades(client, 1)
    world.plugin.past = [tick(10)]
    world.plugin.batches.put_nowait(ProviderFailed("gone."))
    assert (await client.next("status"))["state"] == "down"
    clock = asyncio.create_task(passing(world.clock, 2 * S))
    assert (await client.next("status"))["state"] == "live"
    clock.cancel()
    assert world.plugin.streams == 2


@pytest.mark.parametrize("cls", [TickingPlugin, RememberingPlugin])
async def test_a_mute_stream_is_begun_anew_and_a_quiet_one_is_left(
    make_taped: MakeTaped, cls: type[Any]
) -> None:
    world = make_taped(cls)
    client = Client(world.broadcast)
    await world.join(client)
    world.says(tick(10), tick(20))
    await trades(client, 2)
    world.plugin.past = [tick(10), tick(20)]
    world.quiet_ms = START + STALL
    clock = asyncio.create_task(passing(world.clock, 2 * S))
    async with asyncio.timeout(30):
        while world.clock.now_ms() < START + 5 * STALL:  # noqa: ASYNC110 - quiet for a while
            await asyncio.sleep(0.01)
    assert world.plugin.streams == 1
    # Whoever was asked whether it is mute has proven that it is quiet.
    *_, known = await world.coverage()
    assert (known.reason, known.end_ms >= world.quiet_ms) == (Reason.DATA, True)
    t_ms = world.clock.now_ms()
    world.plugin.past.append(tick(t_ms - START))
    changing = asyncio.create_task(bars_going_on(world))
    assert (await client.next("status"))["state"] == "stale"
    changing.cancel()
    async with asyncio.timeout(30):
        while world.plugin.streams < 2:  # noqa: ASYNC110 - the plugin has no event for it
            await asyncio.sleep(0.01)
    world.says(tick(world.clock.now_ms() - START))
    assert (await client.next("status"))["state"] == "live"
    clock.cancel()


async def test_a_stream_is_mute_in_real_time_however_fast_its_market_runs(
    make_taped: MakeTaped,
) -> None:
    world = make_taped(RememberingPlugin)
    world.plugin.clock = ScaledClock(world.clock, start_ms=START, speed=3_600)
    world.plugin.past = [tick(hour * 3_600_000) for hour in range(1_000)]
    await world.join(Client(world.broadcast))
    while world.clock.now_ms() < START + STALL - S:
        world.clock.advance(S)
        await asyncio.sleep(0.005)
    assert world.plugin.streams == 1
    async with asyncio.timeout(30):
        while world.plugin.streams < 2:
            world.clock.advance(S)
            await asyncio.sleep(0.005)


async def bars_going_on(world: TapeWorld) -> None:
    count = 0
    while True:
        count += 1
        world.bars = [bar(0, volume=float(count))]
        await asyncio.sleep(0.001)


class Faulty(SQLiteStorage):
    """Takes no trades while it is told so."""

    is_away = False

    async def store_ticks(self, *args: Any, **options: Any) -> AddedTicks:
        if self.is_away:
            raise StorageFailed("away.")
        return await super().store_ticks(*args, **options)


async def test_while_the_store_is_away_trades_wait_and_nothing_is_told(tmp_path: Path) -> None:
    storage = Faulty(tmp_path / "ticks.db")
    await storage.open()
    world = TapeWorld(storage)
    client = Client(world.broadcast)
    await world.join(client)
    world.says(tick(1))
    await trades(client, 1)
    storage.is_away = True
    world.says(tick(2))
    world.says(tick(3))
    status = await client.next("status")
    assert (status["state"], status["message"]) == ("down", "away.")
    storage.is_away = False
    assert await trades(client, 2) == [tick(2), tick(3)]
    await world.supervisor.stop()
    await storage.close()


async def test_what_was_missed_is_replayed_with_the_late_or_read_from_the_store(
    make_taped: MakeTaped,
) -> None:
    world = make_taped()
    client = Client(world.broadcast)
    subscription, _ = await world.join(client)
    world.says(tick(10))
    cursor = (await client.next("tick"))["cursor"]
    world.says(tick(20))
    await trades(client, 1)
    world.says(tick(5, "late"), at=20)
    await trades(client, 1)
    back = Client(world.broadcast)
    _, recovered = await world.join(back, resume=cursor)
    assert recovered
    assert await trades(back, 2) == [tick(20), tick(5, "late")]
    for ms in range(30, 36):
        world.says(tick(ms))
        await trades(client, 1)
    _, recovered = await world.join(back := Client(world.broadcast), resume=cursor)
    assert not recovered
    assert (await trades(back, 8))[1:] == [tick(20), *(tick(ms) for ms in range(30, 36))]
    world.service.unsubscribe(world.feed, subscription)


async def test_who_has_no_stream_of_trades_says_so(make_taped: MakeTaped) -> None:
    world = make_taped()
    world.plugin.has_tick_stream = False
    with pytest.raises(Unsupported, match="no stream of trades"):
        await world.join(Client(world.broadcast))


@pytest.mark.parametrize("cls", [TickingPlugin, RememberingPlugin])
async def test_a_crowd_that_joins_reads_each_page_once(
    make_taped: MakeTaped, cls: type[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make_taped(cls)
    past = [tick(number - 3_000) for number in range(3_000)]
    await world.tapes.keep(world.feed, past, [Covered(START - 3_000, START, Reason.DATA)])
    asked: list[int] = []
    read = world.tapes.read

    async def counted(feed: Any, span: Any, **options: Any) -> Any:
        asked.append(span.start_ms - START)
        return await read(feed, span, **options)

    monkeypatch.setattr(world.tapes, "read", counted)
    crowd = [Client(world.broadcast) for _ in range(50)]
    joins = [asyncio.create_task(world.join(client, since=START - 3_000)) for client in crowd]
    await asyncio.sleep(0)
    world.says(tick(1), tick(2))
    await asyncio.gather(*joins)
    for client in crowd:
        assert await trades(client, 3_002) == [*past, tick(1), tick(2)]
    assert asked[:2] == [-3_000, -1_001]
    # Who joined before the news needs no page that has them; for none it is read more than once again.
    assert len(asked) <= 4


async def test_a_snapshot_tells_what_is_not_known_of_the_past(make_taped: MakeTaped) -> None:
    world = make_taped()
    known = Covered(START - 50, START - 20, Reason.DATA)
    await world.tapes.keep(world.feed, [tick(-30)], [known])
    client = Client(world.broadcast)
    await world.join(client, since=START - 50)
    snapshot = await client.next("snapshot")
    assert (snapshot["ticks"], snapshot["complete"]) == ([list(tick(-30))], False)
    gap = await client.next("gap")
    assert Gap(gap["start"], gap["end"], gap["reason"]) == (START - 20, START, "unrecoverable")


# A batch of times; where it is None, another client joins.
ACTS = st.lists(
    st.one_of(st.none(), st.lists(st.integers(1, 40), min_size=1, max_size=4)), min_size=1, max_size=12
)


@given(acts=ACTS, has_history=st.booleans())
@settings(max_examples=15)
def test_history_and_live_join_without_a_hole_or_a_duplicate(
    tmp_path_factory: pytest.TempPathFactory, acts: list[list[int] | None], has_history: bool
) -> None:
    async def check(path: Path) -> None:
        storage = SQLiteStorage(path / "ticks.db")
        await storage.open()
        world = TapeWorld(storage, RememberingPlugin if has_history else TickingPlugin)
        clients = [Client(world.broadcast)]
        joins = [asyncio.create_task(world.join(clients[0], since=START))]
        said: list[Tick] = []
        for number, act in enumerate(acts):
            if act is None:
                clients.append(Client(world.broadcast))
                joins.append(asyncio.create_task(world.join(clients[-1], since=START)))
                await asyncio.sleep(0)
                continue
            batch = [tick(ms, f"{number}.{place}") for place, ms in enumerate(sorted(act))]
            said += batch
            world.says(*batch)
            if has_history:
                world.plugin.past = sorted([*world.plugin.past, *batch])
            if number % 3:
                await asyncio.sleep(0.001)
        last = tick(50, "last")
        await asyncio.gather(*joins)
        world.says(last)
        for client in clients:
            told: list[Tick] = []
            while last not in told:
                told += await trades(client, 1)
            assert Counter(told) == Counter([*said, last])
        await world.supervisor.stop()
        await storage.close()

    asyncio.run(check(tmp_path_factory.mktemp("join")))
