"""One key in several processes, with Redis and while it is away."""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from collections.abc import Iterator
from itertools import chain
from pathlib import Path
from uuid import uuid4

import pytest
import redis
from redis_server import PASSWORD, RedisServer

from marketd.domain.rate_limit import RateLimit
from marketd.metrics import Metrics
from marketd.ratelimit import RateLimiter, SharedAllowances

LIMIT = RateLimit(requests=100, per_ms=1_000, burst=4)

# Spends all it can get for a while, and says when it was let: by Redis' clock, which decides.
SPEND = """
import asyncio, json, sys, time
from marketd.domain.rate_limit import RateLimit
from marketd.metrics import Metrics
from marketd.ratelimit import RateLimiter, SharedAllowances

async def main(url, key, cost, for_s):
    shared = SharedAllowances(url, Metrics())
    allowance, turns_us = shared.allowance(key), []
    limiter = RateLimiter(allowance)
    limit = RateLimit(requests=100, per_ms=1_000, burst=4 * int(cost))
    take = allowance.take

    async def noted(*args, **options):
        taken = await take(*args, **options)
        if not taken.wait_us:
            turns_us.append(taken.at_us)
        return taken

    allowance.take = noted
    print("ready", flush=True)
    sys.stdin.readline()
    end_s = time.monotonic() + float(for_s)
    while time.monotonic() < end_s:
        await limiter.acquire(limit, int(cost), deadline_s=None)
    await shared.close()
    print(json.dumps(turns_us))

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.fixture
def leaving(tmp_path: Path) -> Iterator[RedisServer]:
    """A Redis that a test may stop."""
    with RedisServer(tmp_path) as server:
        server.start()
        yield server


async def spend(limiter: RateLimiter, for_s: float) -> list[float]:
    loop = asyncio.get_running_loop()
    end_s, turns = loop.time() + for_s, []
    while loop.time() < end_s:
        await limiter.acquire(LIMIT, deadline_s=None)
        turns.append(loop.time())
    return turns


@pytest.mark.parametrize("cost", [1, 2])
async def test_two_processes_together_use_one_allowance_and_never_more(
    redis_url: str, cost: int
) -> None:
    key = uuid4().hex
    processes = [
        await asyncio.create_subprocess_exec(
            sys.executable,
            *("-c", SPEND, redis_url, key, str(cost), "1.0"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        for _ in range(2)
    ]
    for process in processes:
        assert process.stdout is not None
        assert await process.stdout.readline() == b"ready\n"
    outputs = await asyncio.gather(*(process.communicate(b"go\n") for process in processes))
    one, other = (json.loads(output) for output, _ in outputs)
    both = sorted([*one, *other])
    # A busy machine wakes them too late now and then. What a lone one uses is in the contract.
    assert cost * len(both) >= 0.7 * 100
    # From any turn to any later one: the burst, and what comes back meanwhile, a unit in 10 ms.
    for first, first_us in enumerate(both):
        for last, last_us in enumerate(both[first:], first):
            assert cost * (last - first + 1) <= 4 * cost + (last_us - first_us) // 10_000
    assert min(len(one), len(other)) >= 10 / cost
    with redis.Redis.from_url(redis_url) as client:
        kept = list(client.scan_iter(f"*{key}*"))
        assert len(kept) == 2
        assert all(0 < client.pttl(name) <= 61_000 for name in kept)  # nothing is kept for ever


async def test_without_redis_each_keeps_to_its_share_says_so_once_and_comes_back(
    leaving: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    metrics = Metrics()
    nodes = [SharedAllowances(leaving.url, metrics) for _ in range(2)]
    limiters = [RateLimiter(node.allowance("key")) for node in nodes]
    with caplog.at_level(logging.INFO, "marketd"):
        await asyncio.gather(*(spend(limiter, 0.1) for limiter in limiters))
        leaving.stop()
        turns = await asyncio.gather(*(spend(limiter, 0.8) for limiter in limiters))
        assert metrics.redis_up._value.get() == 0
        alone = list(chain.from_iterable(turns))
        assert 0.8 * 80 <= len(alone) <= 80 + 2 * LIMIT.burst
        leaving.start()
        async with asyncio.timeout(30):
            while metrics.redis_up._value.get() == 0:
                await asyncio.gather(*(limiter.acquire(LIMIT, deadline_s=None) for limiter in limiters))
        back = await asyncio.gather(*(spend(limiter, 1.2) for limiter in limiters))
    assert len(list(chain.from_iterable(back))) <= 120 + 2 * LIMIT.burst + 2
    told = [record.getMessage() for record in caplog.records if record.name.startswith("marketd")]
    assert [line.split()[:2] for line in told] == [["redis", "away"]] * 2 + [["redis", "back;"]] * 2
    assert PASSWORD not in caplog.text
    for node in nodes:
        await node.close()


async def test_a_provider_s_word_to_wait_stops_every_process(redis_url: str) -> None:
    nodes = [SharedAllowances(redis_url, Metrics()) for _ in range(2)]
    key = uuid4().hex
    told, other = (RateLimiter(node.allowance(key)) for node in nodes)
    loop = asyncio.get_running_loop()
    await other.acquire(LIMIT, deadline_s=None)
    begun_s = loop.time()
    await told.penalise(0.3)
    await other.acquire(LIMIT, deadline_s=None)
    assert loop.time() - begun_s >= 0.3
    for node in nodes:
        await node.close()


async def test_a_pause_holds_though_redis_goes_away_before_it_is_over(leaving: RedisServer) -> None:
    node = SharedAllowances(leaving.url, Metrics())
    limiter, loop = RateLimiter(node.allowance("key")), asyncio.get_running_loop()
    await limiter.acquire(LIMIT, deadline_s=None)
    begun_s = loop.time()
    await limiter.penalise(0.3)
    leaving.stop()
    await limiter.acquire(LIMIT, deadline_s=None)
    assert 0.3 <= loop.time() - begun_s < 2
    await node.close()


async def test_a_wrong_password_is_told_without_it(
    leaving: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    node = SharedAllowances(leaving.url.replace(PASSWORD, "not-that-one"), Metrics())
    await RateLimiter(node.allowance("key")).acquire(LIMIT, deadline_s=None)
    assert "redis away reason=AuthenticationError" in caplog.text
    assert "not-that-one" not in caplog.text
    await node.close()


async def test_a_redis_that_never_answers_holds_nobody_up_for_long(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(1_000):
            pass
        writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    node = SharedAllowances(f"redis://{host}:{port}", Metrics())
    limiter, loop = RateLimiter(node.allowance("key")), asyncio.get_running_loop()
    begun_s = loop.time()
    await asyncio.gather(*(limiter.acquire(LIMIT, deadline_s=None) for _ in range(3)))
    assert loop.time() - begun_s < 3
    assert "redis away reason=TimeoutError" in caplog.text
    await node.close()
    server.close()
    await server.wait_closed()


async def test_a_cancelled_caller_ends_and_leaves_the_connection_usable(redis_url: str) -> None:
    node = SharedAllowances(redis_url, metrics := Metrics())
    limiter = RateLimiter(node.allowance(uuid4().hex))
    unlimited = RateLimit(requests=1_000_000, per_ms=1_000, burst=1_000_000)
    # Whenever that comes: just as the answer does, too.
    for steps in range(100):
        task = asyncio.create_task(limiter.acquire(unlimited, deadline_s=None))
        for _ in range(steps):
            await asyncio.sleep(0)
        if not task.done():
            task.cancel()
            await asyncio.wait([task])
            assert task.cancelled()
        await limiter.acquire(unlimited, deadline_s=None)
    assert metrics.redis_up._value.get() == 1
    await node.close()
