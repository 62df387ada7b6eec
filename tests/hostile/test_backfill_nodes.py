"""Backfills of several nodes over one database: each is one node's work, and every node's to command."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import Any
from uuid import uuid4

import aiohttp
import pytest
from backfilling import HOUR, PATH, all_told, begin, call, ended, fetched_twice, kept, only_from, until
from besieged import START, M, Make, World
from killing import doomed_node
from servers.postgres import PostgresServer
from stand_in import well

from marketd.config import RedisConfig, UpstreamConfig


@pytest.fixture
async def database(postgres_server: PostgresServer) -> str:
    return await postgres_server.create(f"backfills_{uuid4().hex}")


def running(world: World) -> float:
    return world.daemon.metrics.backfills_running._value.get()


async def test_each_is_worked_on_by_one_node_and_any_node_tells_of_it_and_commands_it(
    make: Make, database: str, redis_url: str
) -> None:
    shared: dict[str, Any] = {"database": database, "redis": RedisConfig(url=redis_url)}
    # Nothing is asked for twice because the machine is busy.
    shared |= {"upstream": UpstreamConfig(), "backfill": (kept(symbols=("S9",)),)}
    one = await make(**shared)
    vendor = one.vendor
    other = await make(**shared, settings={"url": vendor.url})
    (filled,) = await all_told(other)
    await until(one, filled, lambda told: told["next"] is not None)
    jobs = [await begin((one, other)[n % 2], symbol=f"S{n}") for n in range(8)]
    for n, job in enumerate(jobs):
        assert (await ended((other, one)[n % 2], job))["state"] == "done"
    assert len(vendor.asked) == 9 * 6
    assert fetched_twice(one) == []
    assert [told["id"] for told in await all_told(one)] == [told["id"] for told in await all_told(other)]

    # What is kept is due again: for one of them.
    for world in (one, other):
        world.clock.advance(HOUR)
    next_ms = one.clock.now_ms() + HOUR
    await until(one, filled, lambda told: told["next"] == next_ms)
    assert [asked.span.start_ms for asked in vendor.asked].count(START + 600 * M) == 1

    vendor.mood = only_from(START + 300 * M)
    told = await begin(one)
    await until(other, told, lambda seen: seen["state"] == "running" and seen["progress"] == 0.5)
    assert running(one) + running(other) == 1
    idle = one if running(other) else other
    assert (await call(idle, "POST", f"{PATH}/{told['id']}/pause"))[1]["state"] == "paused"
    async with asyncio.timeout(30):
        while running(one) + running(other):  # noqa: ASYNC110 - a metric has no event
            await asyncio.sleep(0.05)
    for world in (one, other):
        assert (await call(world, "GET", f"{PATH}/{told['id']}"))[1]["state"] == "paused"
    vendor.mood = well
    vendor.asked.clear()
    assert (await call(other, "POST", f"{PATH}/{told['id']}/resume"))[0] == 200
    assert (await ended(one, told))["state"] == "done"
    assert fetched_twice(one) == []
    assert await one.stored() == await other.stored() == one.truth(0, 600)
    assert (await call(other, "DELETE", f"{PATH}/{told['id']}"))[0] == 200
    assert (await call(one, "GET", f"{PATH}/{told['id']}"))[0] == 404


async def test_what_a_node_was_at_when_it_stopped_another_takes_over_and_it_notices_when_it_wakes_up(
    make: Make, database: str, redis_url: str
) -> None:
    world = await make(database=database, redis=RedisConfig(url=redis_url), upstream=UpstreamConfig())
    vendor = world.vendor
    async with doomed_node(database, vendor.url, redis_url) as doomed:
        await world.stop()
        await doomed.start()
        vendor.mood = only_from(START + 300 * M)
        there = World(vendor, world.config, world.clock)
        async with aiohttp.ClientSession(doomed.url) as there.session:
            told = await begin(there)
            await until(there, told, lambda seen: seen["progress"] == 0.5)
            world.clock.set(told["created"])
            await world.start()
            await until(world, told, lambda seen: seen["progress"] == 0.5)
            assert running(world) == 0
            # To the others it is the same whether it is dead or not.
            os.kill(doomed.pid, signal.SIGSTOP)
            vendor.mood = well
            vendor.asked.clear()
            done = await ended(world, told)
            assert (done["state"], done["progress"]) == ("done", 1.0)
            assert {one.span.start_ms < START + 300 * M for one in vendor.asked} == {True}
            assert fetched_twice(world) == []
            assert await world.stored() == world.truth(0, 600)
            os.kill(doomed.pid, signal.SIGCONT)
            async with asyncio.timeout(20):
                while "marketd_backfills_running 0.0" not in await metrics(there):  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
            for one in (world, there):
                assert (await call(one, "GET", f"{PATH}/{told['id']}"))[1] == done


async def metrics(world: World) -> str:
    async with world.session.get("/metrics") as response:
        return await response.text()
