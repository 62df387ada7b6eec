"""Bad things happen to the daemons of a cluster while its clients listen.

What each client was told is held against the store at the end: every bar, in order, once, and every
trade, once.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import redis

from soak.clients import BASE
from soak.cluster import Cluster, cluster
from soak.node import Node

# How long a bar may take to the clients of a node that nothing has happened to, whatever has to others.
TAKEOVER_S = 6
# How long a node that was away may take to tell what it missed.
_RECOVERY_S = 3
# How much longer trades may take that nobody has heard: they are asked for when they are settled.
_SETTLING_S = 6


class Trouble:
    """Makes bad things happen, one a round."""

    def __init__(self, nodes: Cluster, chance: random.Random) -> None:
        self._cluster = nodes
        self._chance = chance
        self._births: set[asyncio.Task[None]] = set()
        # What is still to happen before all of it happens again.
        self._kinds: list[Callable[[], Awaitable[str]]] = []

    async def round(self) -> str:
        """One bad thing, after which every client that can is told of bars again; says what it was."""
        for one in self._cluster.recorders:
            one.node.is_well = one.node.url != "" and time.time() - one.node.resumed_s > _RECOVERY_S
        if not self._kinds:
            twice, once = (
                (self._kill, self._stop),
                (self._restart_redis, self._freeze_redis, self._flush),
            )
            self._kinds = [*twice, *twice, *once]
            self._chance.shuffle(self._kinds)
        said = await self._kinds.pop()()
        well = [one for one in self._cluster.recorders if one.node.is_well]
        await self._cluster.told([one for one in well if one.timeframe == BASE.timeframe])
        return said

    async def end(self) -> None:
        """Lets all that has died come back, and every client hear what it missed."""
        await asyncio.gather(*self._births)
        await self._cluster.told(self._cluster.recorders)

    async def _victim(self) -> Node:
        """A node, and the leader in most cases. All of them run by then."""
        await asyncio.gather(*self._births)
        if self._chance.random() < 0.3:
            return self._chance.choice(self._cluster.nodes)
        leads = await asyncio.gather(*(node.leads() for node in self._cluster.nodes))
        led = [node for node, is_leader in zip(self._cluster.nodes, leads, strict=True) if is_leader]
        return self._chance.choice(led or self._cluster.nodes)

    async def _kill(self) -> str:
        victim = await self._victim()
        victim.is_well = False
        await victim.kill()
        birth = asyncio.create_task(victim.start())
        self._births.add(birth)
        birth.add_done_callback(self._births.discard)
        return "killed a node"

    async def _stop(self) -> str:
        victim = await self._victim()
        victim.is_well = False
        for_s = self._chance.uniform(0.5, 5)
        await victim.stop_for(for_s)
        return f"stopped a node for {for_s:.1f} s"

    async def _restart_redis(self) -> str:
        for_s = self._chance.choice((0.0, 1.0, 4.5))
        self._cluster.redis.stop()
        await asyncio.sleep(for_s)
        self._cluster.redis.start()
        return f"restarted Redis after {for_s:.1f} s"

    async def _freeze_redis(self) -> str:
        for_s = self._chance.uniform(0.5, 4.5)
        self._cluster.redis.freeze()
        await asyncio.sleep(for_s)
        self._cluster.redis.thaw()
        return f"froze Redis for {for_s:.1f} s"

    async def _flush(self) -> str:
        with redis.Redis.from_url(self._cluster.redis.url) as client:
            client.flushall()
        return "emptied Redis"


async def rounds(
    folder: Path,
    database: str,
    number: int,
    chance: random.Random,
    say: Callable[[str], None],
    *,
    most_late_s: float = TAKEOVER_S,
) -> int:
    """So many rounds over an empty database; gives the number of bars that clients were told.

    Raises AssertionError if one was told anything else than what is stored, or a bar later than
    `most_late_s` at a node to which nothing had happened. What is said after each round tells how late.
    """
    async with cluster(folder, database) as nodes, asyncio.TaskGroup() as group:
        clients = [*nodes.recorders, *nodes.trade_recorders]
        listening = [group.create_task(one.run()) for one in clients]
        await nodes.told(nodes.recorders)
        trouble = Trouble(nodes, chance)
        for done in range(1, number + 1):
            said = await trouble.round()
            latest_s = max(one.latest_s for one in nodes.recorders)
            trades_s = max(one.latest_s for one in nodes.trade_recorders)
            say(
                f"{done:,} of {number:,}: {said}; {latest_s:.1f} s late at most, trades {trades_s:.1f} s"
            )
            assert latest_s <= most_late_s
            assert trades_s <= most_late_s + _SETTLING_S
        await trouble.end()
        await nodes.told_trades()
        for task in listening:
            task.cancel()
        return await nodes.check()
