"""Several nodes over one database: one follows the trades, and no client misses or repeats any."""

from __future__ import annotations

from functools import partial

from cluster import NOW, Cluster, TapeNode, joined, until
from scripted import START, RememberingPlugin, TickingPlugin
from taped_world import S, tick, trades
from way import Way

from marketd.chores import probe
from marketd.domain.bar import Tick

KEEPS = RememberingPlugin
FORGETS = TickingPlugin


def at(ms: int, trade_id: str | None = None) -> Tick:
    """A trade so long after the nodes have begun."""
    return tick(NOW - START + ms, trade_id)


async def two(cluster: Cluster, cls: type[TickingPlugin] = KEEPS) -> tuple[TapeNode, TapeNode]:
    """Two nodes with a client of trades each; the first leads."""
    return await joined(await cluster.tape_node(cls), await cluster.tape_node(cls))


async def test_one_node_listens_to_the_provider_and_the_clients_of_all_are_told(
    cluster: Cluster,
) -> None:
    leader, follower = await two(cluster)
    for batch in ([at(10), at(20)], [at(30)]):
        cluster.trades(*batch)
        for node in (leader, follower):
            assert await trades(node.client, len(batch)) == batch
    assert (leader.plugin.streams, follower.plugin.streams) == (1, 0)
    assert await leader.world.stored() == [at(10), at(20), at(30)]


async def test_a_trade_that_comes_late_is_told_on_every_node(cluster: Cluster) -> None:
    leader, follower = await two(cluster)
    for ms in (100, 50, -5 * S, 110):  # one is older than any client's subscription
        cluster.trades(at(ms))
        for node in (leader, follower):
            assert await trades(node.client, 1) == [at(ms)]


async def test_when_the_leader_dies_another_leads_and_nobody_misses_or_repeats_a_trade(
    cluster: Cluster,
) -> None:
    leader, follower = await two(cluster)
    cluster.trades(at(10))
    assert await trades(follower.client, 1) == [at(10)]
    await leader.died()
    cluster.trades(at(2 * S))  # nobody listens
    await follower.round()
    assert not follower.leads, "the lease has not expired"
    cluster.lease_expires()
    await follower.round()
    await until(lambda: follower.leads)
    cluster.trades(at(5 * S))
    assert await trades(follower.client, 1) == [at(5 * S)]
    cluster.clock.set(NOW + 30 * S)
    assert await trades(follower.client, 1) == [at(2 * S)]


async def test_what_nobody_heard_and_the_provider_does_not_keep_is_told_as_a_gap(
    cluster: Cluster,
) -> None:
    leader, follower = await two(cluster, FORGETS)
    cluster.trades(at(10))
    assert (await follower.client.next("gap"))["start"] == NOW, "what was before the first trade"
    cluster.trades(at(20))
    assert await trades(follower.client, 1) == [at(20)]
    await leader.died()
    cluster.trades(at(2 * S))
    cluster.lease_expires()
    await follower.round()
    await until(lambda: follower.leads)
    another = await cluster.tape_node(FORGETS)
    await another.join()
    cluster.trades(at(5 * S))
    for node in (follower, another):
        assert await trades(node.client, 1) == [at(5 * S)]
    gap = await follower.client.next("gap")
    assert (gap["start"], gap["end"]) == (at(20)[0], at(5 * S)[0] + 1)


async def test_a_gap_is_told_on_every_node(cluster: Cluster) -> None:
    nodes = await two(cluster, FORGETS)
    leader = nodes[0]
    cluster.trades(at(10))
    for node in nodes:
        await trades(node.client, 1)
    leader.plugin.batches.put_nowait(RuntimeError("?"))
    for node in nodes:
        assert (await node.client.next("status"))["state"] == "down"
    await until(lambda: leader.plugin.streams == 2)
    cluster.trades(at(9 * S))
    gaps = [await node.client.next("gap") for node in nodes]
    assert gaps[0] == gaps[1]
    for node in nodes:
        assert (await node.client.next("status"))["state"] == "live"


async def test_what_the_leader_stored_and_could_not_tell_any_more_is_told(cluster: Cluster) -> None:
    leader, follower = await two(cluster)
    leader.talk.is_cut = True
    for ms in (100, 110, 50):
        cluster.trades(at(ms))
        assert await trades(leader.client, 1) == [at(ms)]
    await leader.died()
    cluster.lease_expires()
    await follower.round()
    assert sorted(await trades(follower.client, 3)) == [at(50), at(100), at(110)]
    await until(lambda: follower.leads)
    cluster.trades(at(120))
    assert await trades(follower.client, 1) == [at(120)]


async def test_a_word_that_is_lost_is_made_up_for_with_the_next_round_or_word(cluster: Cluster) -> None:
    leader, follower = await two(cluster)
    follower.talk.is_cut = True
    cluster.trades(at(10))
    await trades(leader.client, 1)
    await cluster.round()
    assert await trades(follower.client, 1) == [at(10)]
    cluster.trades(at(-S))  # on its way since before any client came
    await trades(leader.client, 1)
    follower.talk.is_cut = False
    cluster.trades(at(30))
    assert await trades(follower.client, 2) == [at(-S), at(30)]


async def test_more_than_fits_into_a_word_is_read_from_the_store(cluster: Cluster) -> None:
    nodes = await two(cluster)
    many = [at(n) for n in range(1, 1_202)]
    cluster.trades(*many)
    for node in nodes:
        assert await trades(node.client, len(many)) == many


async def test_a_client_that_joins_with_history_on_any_node_has_each_trade_once(
    cluster: Cluster,
) -> None:
    leader, _ = await two(cluster)
    cluster.trades(at(10), at(20))
    await trades(leader.client, 2)
    late = await cluster.tape_node(KEEPS)
    await late.join(since=NOW)
    await until(lambda: late.hears)
    cluster.trades(at(15))
    cluster.trades(at(30))
    assert await trades(late.client, 4) == [at(10), at(20), at(15), at(30)]


async def test_a_leader_that_was_paused_writes_nothing_and_follows(cluster: Cluster) -> None:
    leader, follower = await two(cluster)
    cluster.trades(at(10))
    for node in (leader, follower):
        await trades(node.client, 1)
    cluster.lease_expires()
    await follower.round()
    await until(lambda: follower.leads)
    leader.world.says(at(20, "wrong"))
    await until(lambda: not leader.leads)
    cluster.trades(at(30))
    assert await trades(follower.client, 1) == [at(30)]
    for _ in range(2):
        await cluster.round()
    assert await trades(leader.client, 1) == [at(30)]
    assert not leader.leads
    assert await leader.world.stored() == [at(10), at(30)]


async def test_without_the_bus_each_follows_by_itself_and_they_return_by_themselves(
    cluster: Cluster,
) -> None:
    both = leader, follower = await two(cluster)
    for node in both:
        node.wire.is_cut = node.talk.is_cut = True
    await cluster.round()
    cluster.lease_expires()
    await cluster.round()
    await until(lambda: follower.leads and leader.leads and leader.plugin.streams == 2)
    for batch in ([at(10), at(20)], [at(15)], [at(-2 * S)], [at(30)]):
        cluster.trades(*batch)
        for node in both:
            assert await trades(node.client, len(batch)) == batch
    for node in both:
        node.wire.is_cut = node.talk.is_cut = False
    await cluster.round()
    await until(lambda: not follower.leads and leader.plugin.streams == 3)
    cluster.trades(at(40))
    for node in both:
        assert await trades(node.client, 1) == [at(40)]
    assert await leader.world.stored() == sorted([at(10), at(20), at(15), at(-2 * S), at(30), at(40)])


async def test_a_leader_whose_database_says_nothing_lets_another_lead(cluster: Cluster) -> None:
    async with Way(cluster.url) as way:
        leader, follower = await cluster.tape_node(KEEPS, way), await cluster.tape_node(KEEPS)
        leader.world.supervisor.run(
            "probe", partial(probe, leader.storage, leader.metrics.storage_fault_seconds)
        )
        await joined(leader, follower)
        cluster.trades(at(10))
        for node in (leader, follower):
            assert await trades(node.client, 1) == [at(10)]
        way.silence()
        cluster.trades(at(20))
        await until(lambda: bool(leader.storage.fault))
        await cluster.round()
        assert leader.leads, "a moment is nothing"
        cluster.now_s += 1.1
        await cluster.round()
        await until(lambda: follower.leads)
        assert (await leader.client.next("status"))["state"] == "down"
        cluster.trades(at(30))
        assert await trades(follower.client, 1) == [at(30)]
        way.open()
        for node in (leader, follower):
            node.world.supervisor.run("rounds", node.nodes.run)
        cluster.clock.set(NOW + 30 * S)
        for node, told in ((leader, [at(20), at(30)]), (follower, [at(20)])):
            assert sorted(await trades(node.client, len(told))) == told
        assert not leader.leads
