"""Several nodes over one database: one follows the provider, and no client of any misses or repeats."""

from __future__ import annotations

import asyncio
import time
from functools import partial

import pytest
from cluster import NOW, BarNode, Cluster, joined, until
from scripted import INSTRUMENT, MINUTE, START, M, TickingPlugin, bar
from way import Way

from marketd.chores import probe
from marketd.domain.bar import Bar, Tick
from marketd.domain.tick_bars import bars_of_ticks
from marketd.domain.timeframe import Timeframe
from marketd.domain.timerange import TimeRange
from marketd.streaming.ring import Cursor
from marketd.streaming.tape_stream import TapeSubscription

FIVE, DAY = Timeframe.parse("5m"), Timeframe.parse("1d")


async def two(cluster: Cluster) -> tuple[BarNode, BarNode]:
    """Two nodes with a client each; the first leads."""
    return await joined(await cluster.node(), await cluster.node())


async def test_one_node_listens_to_the_provider_and_the_clients_of_all_are_told(
    cluster: Cluster,
) -> None:
    leader, follower = await two(cluster)
    for minute in (10, 11):
        cluster.happens(minute)
        for node in (leader, follower):
            assert await node.client.closed(1) == [bar(minute)]
    leader.world.says(bar(12, close=50.0), closed=False)
    for node in (leader, follower):
        forming = await node.client.next("bar")
        assert (tuple(forming["bar"]), forming["closed"]) == (bar(12, close=50.0), False)
    assert (leader.plugin.streams, follower.plugin.streams) == (1, 0)


async def test_derived_bars_are_the_same_on_every_node(cluster: Cluster) -> None:
    leader, follower = await two(cluster)
    clients = [node.world.client() for node in (leader, follower)]
    for node, client in zip((leader, follower), clients, strict=True):
        await node.world.join(client, FIVE, START + 5 * M)
    for minute in range(10, 15):
        cluster.happens(minute)
    first, second = [await client.closed(1) for client in clients]
    assert first == second
    assert first[0][0] == START + 10 * M


@pytest.mark.parametrize("is_other", [False, True], ids=["the_same", "another"])
async def test_bars_of_trades_form_close_and_are_revised_on_every_node(
    cluster: Cluster, is_other: bool
) -> None:
    """One node leads the bars, and the same or another the trades that they are made of."""
    leader, follower = nodes = [await cluster.node(TickingPlugin, (DAY,)) for _ in range(2)]
    hearing, deaf = (follower, leader) if is_other else (leader, follower)
    if is_other:
        tape = hearing.world.feed.tape
        assert tape is not None
        hearing.world.tapes.subscribe(tape, TapeSubscription(INSTRUMENT, hearing.world.client().outbox))
        await until(lambda: bool(hearing.nodes._members))
        await hearing.round()
    for node in nodes:
        await node.join()
    await until(lambda: len(leader.nodes._members) == 2)
    await cluster.round()
    await until(lambda: hearing.plugin.streams and deaf.hears and follower.hears)
    said: list[Tick] = []

    async def says(ms: int, price: float, at_ms: int | None = None) -> None:
        cluster.clock.set(START + (at_ms or ms))
        said.append((START + ms, price, 0.5, "buy", str(ms)))
        hearing.plugin.batches.put_nowait(said[-1:])
        minute = TimeRange(START + ms, START + ms + 1)
        async with asyncio.timeout(10):
            while not (await leader.storage.read_ticks(INSTRUMENT, minute, limit=1)).ticks:  # noqa: ASYNC110
                await asyncio.sleep(0.005)

    for ms in (30_000, 55_000, M + 1_000):
        await says(10 * M + ms, 100.0)
    for node in nodes:
        while (forming := await node.client.next("bar"))["bar"][0] < START + 11 * M:
            pass
        assert (forming["bar"][4], forming["closed"]) == (100.0, False)
    for ms in (25_000, 50_000, M + 1_000):
        await says(11 * M + ms, 101.0)
    cluster.clock.set(START + 12 * M + 3_000)
    for node in nodes:
        assert await node.client.closed(1) == bars_of_ticks(said[2:5], MINUTE)
    await says(11 * M + 2_000, 200.0, at_ms=12 * M + 4_000)
    for node in nodes:
        while (told := await node.client.next("bar"))["rev"] != 1:
            pass
        expected = bars_of_ticks(sorted([*said[2:5], said[-1]]), MINUTE)
        assert [tuple(told["bar"])] == expected
        found = await node.world.orchestrator.bars(
            node.world.feed, MINUTE, since=START + 11 * M, before=START + 12 * M, limit=1
        )
        assert found.bars == expected
    assert deaf.plugin.streams == 0


async def test_when_the_leader_dies_another_leads_and_nobody_misses_or_repeats_a_bar(
    cluster: Cluster,
) -> None:
    leader, follower = await two(cluster)
    cluster.happens(10)
    assert await follower.client.closed(1) == [bar(10)]
    await leader.died()
    cluster.happens(11)
    await follower.round()
    assert not follower.leads, "the lease has not expired"
    cluster.lease_expires()
    await follower.round()
    cluster.happens(12)
    assert await follower.client.closed(2) == [bar(11), bar(12)]


async def test_what_the_leader_stored_and_could_not_tell_any_more_is_told(cluster: Cluster) -> None:
    leader, follower = await two(cluster)
    leader.talk.is_cut = True
    cluster.happens(10)
    assert await leader.client.closed(1) == [bar(10)]
    await leader.died()
    cluster.lease_expires()
    await follower.round()
    assert await follower.client.closed(1) == [bar(10)]
    # It was read: the vendor was not asked for it again.
    assert not any(span.start_ms <= bar(10)[0] < span.end_ms for span in follower.plugin.calls)


async def test_a_word_that_is_lost_is_made_up_for_with_the_next_round(cluster: Cluster) -> None:
    leader, follower = await two(cluster)
    follower.talk.is_cut = True
    cluster.happens(10)
    assert await leader.client.closed(1) == [bar(10)]
    await cluster.round()
    assert await follower.client.closed(1) == [bar(10)]
    follower.talk.is_cut = False
    cluster.happens(11)
    assert await follower.client.closed(1) == [bar(11)]


async def test_a_word_that_was_missed_is_made_up_for_with_the_next_word(cluster: Cluster) -> None:
    leader, follower = await two(cluster)
    follower.talk.is_cut = True
    cluster.happens(10)
    assert await leader.client.closed(1) == [bar(10)]
    follower.talk.is_cut = False
    cluster.happens(11)
    assert await follower.client.closed(2) == [bar(10), bar(11)]


async def test_a_client_that_moves_to_a_node_which_is_behind_is_told_no_bar_twice(
    cluster: Cluster,
) -> None:
    leader, follower = await two(cluster)
    follower.talk.is_cut = True
    for minute in (10, 11):
        cluster.happens(minute)
        told = await leader.client.next("bar")
    cursor = Cursor.parse(told["cursor"], field="resume")
    world, client = follower.world, follower.world.client()
    subscription, joined = world.subscribe(client, MINUTE, cursor)
    resuming = asyncio.create_task(world.service.resume(world.feed, subscription, cursor, joined))
    corrected = bar(10, close=77.0)
    await world.storage.store(world.feed.series, [corrected], [], at_ms=NOW)
    follower.talk.is_cut = False
    cluster.happens(12)
    assert await resuming
    subscription.go_live()
    bars: dict[int, list[Bar]] = {0: [], 1: []}
    while not bars[0]:
        message = await client.next("bar")
        bars[message["rev"]].append(tuple(message["bar"]))
    # That it was corrected may be told as it happens, too.
    assert (bars[0], set(bars[1])) == ([bar(12)], {corrected})


async def test_a_node_that_is_ahead_of_the_leader_repeats_nothing(cluster: Cluster) -> None:
    _, follower = await two(cluster)
    cluster.bars += [bar(10), bar(11), bar(12)]
    cluster.clock.set(START + 12 * M + 500)
    ahead = await cluster.node()
    await ahead.join()
    cluster.clock.set(START + 13 * M + 1_001)
    assert await follower.client.closed(3) == [bar(10), bar(11), bar(12)]
    assert await ahead.client.closed(1) == [bar(12)]


async def test_a_leader_that_was_paused_writes_nothing_and_follows(cluster: Cluster) -> None:
    leader, follower = await two(cluster)
    cluster.happens(10)
    await leader.client.closed(1)
    # It is paused: nothing is renewed, and another leads.
    cluster.lease_expires()
    await follower.round()
    await until(lambda: follower.leads)
    # It wakes up, and does not know yet. What its stream said before it was paused is wrong by now.
    cluster.clock.set(START + 12 * M + 1)
    cluster.bars.append(bar(11))
    leader.world.says(bar(11, close=50.0), closed=True)
    await until(lambda: not leader.leads)
    follower.world.says(bar(11), closed=True)
    assert await follower.client.closed(2) == [bar(10), bar(11)]
    for _ in range(2):  # with the second it learns what the new leader noted with the first
        await cluster.round()
    assert await leader.client.closed(1) == [bar(11)]
    assert not leader.leads


async def test_a_lease_that_was_forgotten_changes_nothing_for_clients(cluster: Cluster) -> None:
    leader, follower = await two(cluster)
    for minute, first in ((10, follower), (11, leader), (12, leader)):
        cluster.hub.held.clear()
        await first.round()
        await cluster.round()
        await until(lambda first=first: first.leads)
        cluster.happens(minute)
        for node in (leader, follower):
            assert await node.client.closed(1) == [bar(minute)]


async def test_without_the_bus_each_follows_by_itself_and_they_return_by_themselves(
    cluster: Cluster,
) -> None:
    leader, follower = await two(cluster)
    both = (leader, follower)
    for node in both:
        node.wire.is_cut = node.talk.is_cut = True
    await cluster.round()
    assert not any(node.nodes.fault for node in both), "a moment is nothing"
    cluster.lease_expires()
    await cluster.round()
    await until(lambda: follower.leads)
    assert all("Redis is away" in node.nodes.fault for node in both)
    assert all(node.metrics.bus_up._value.get() == 0 for node in both)
    await until(lambda: leader.plugin.streams == 2 and leader.leads)
    cluster.happens(10)
    for node in both:
        assert await node.client.closed(1) == [bar(10)]
        node.wire.is_cut = node.talk.is_cut = False
    await cluster.round()
    await until(lambda: not follower.leads)
    assert not any(node.nodes.fault for node in both)
    assert all(node.metrics.bus_up._value.get() == 1 for node in both)
    await until(lambda: leader.plugin.streams == 3 and leader.leads)
    cluster.happens(11)
    for node in both:
        assert await node.client.closed(1) == [bar(11)]


async def test_a_node_that_starts_without_the_bus_does_not_wait_for_it(cluster: Cluster) -> None:
    node = await cluster.node()
    node.wire.is_cut = True
    await node.join()
    await until(lambda: node.leads)
    cluster.happens(10)
    assert await node.client.closed(1) == [bar(10)]


async def test_a_node_whose_last_client_has_left_lets_another_lead_at_once(cluster: Cluster) -> None:
    leader, follower = await two(cluster)
    await leader.world.supervisor.stop()
    await cluster.round()
    await until(lambda: follower.leads)
    cluster.happens(10)
    assert await follower.client.closed(1) == [bar(10)]


async def test_a_series_that_is_followed_again_while_its_last_following_still_ends_has_its_part(
    cluster: Cluster,
) -> None:
    node = await cluster.node()
    node.plugin.let_go.clear()
    world = node.world
    subscription, _ = world.subscribe(node.client)
    subscription.go_live()
    await until(lambda: bool(node.nodes._members))
    await node.round()
    await until(lambda: node.leads)
    ((_, following),) = world.service._upstreams.items()
    world.service.unsubscribe(world.feed, subscription)
    await until(lambda: not world.service._upstreams)
    (before,) = node.nodes._members.values()
    world.subscribe(node.client)[0].go_live()
    await until(lambda: before not in node.nodes._members.values())
    node.plugin.let_go.set()
    await asyncio.wait([following.task])
    await node.round()
    await until(lambda: node.leads)
    cluster.happens(10)
    assert await node.client.closed(1) == [bar(10)]


async def test_a_leader_whose_database_says_nothing_lets_another_lead_in_time_and_returns_by_itself(
    cluster: Cluster,
) -> None:
    async with Way(cluster.url) as way:
        leader, follower = await cluster.node(way=way), await cluster.node()
        leader.world.supervisor.run(
            "probe", partial(probe, leader.storage, leader.metrics.storage_fault_seconds)
        )
        await joined(leader, follower)
        way.silence()
        silent_s = time.monotonic()
        cluster.happens(10)
        await until(lambda: bool(leader.storage.fault))
        await cluster.round()
        assert leader.leads, "a moment is nothing"
        cluster.now_s += 1.1
        await cluster.round()
        await until(lambda: follower.leads)
        # The moment of grace and the time until the other node's round are not waited for here: 2 s.
        assert time.monotonic() - silent_s < 4
        told = await leader.client.next("status")
        assert told["state"] == "down"
        assert "The database cannot be written" in told["message"]
        # What it would have written besides.
        leader.world.says(bar(10, close=99.0), closed=True)
        cluster.happens(11)
        assert await follower.client.closed(2) == [bar(10), bar(11)]
        way.open()
        for node in (leader, follower):
            node.world.supervisor.run("rounds", node.nodes.run)
        assert await leader.client.closed(2) == [bar(10), bar(11)]
        cluster.happens(12)
        for node in (leader, follower):
            assert await node.client.closed(1) == [bar(12)]
        assert not leader.leads
        stored = await follower.storage.read(
            follower.world.feed.series, TimeRange(START + 10 * M, START + 20 * M), limit=99
        )
        assert stored.bars == [bar(10), bar(11), bar(12)]


async def test_more_than_fits_into_a_word_is_read_from_the_store(cluster: Cluster) -> None:
    leader, follower = await two(cluster)
    cluster.bars += [bar(minute) for minute in range(10, 400)]
    cluster.happens(400)
    expected = [bar(minute) for minute in range(10, 401)]
    for node in (leader, follower):
        assert await node.client.closed(len(expected)) == expected
    assert not [span for span in follower.plugin.calls if span.end_ms > START + 11 * M]


async def test_the_health_of_the_feed_is_told_on_every_node(cluster: Cluster) -> None:
    leader, follower = await two(cluster)
    leader.plugin.updates.put_nowait(RuntimeError("?"))
    for node in (leader, follower):
        assert (await node.client.next("status"))["state"] == "down"
    await until(lambda: leader.plugin.streams == 2 and leader.leads)
    cluster.happens(10)
    for node in (leader, follower):
        assert (await node.client.next("status"))["state"] == "live"
