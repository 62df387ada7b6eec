"""The rate limit is kept, used, and told: seen from the vendor's side of the wire."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

from besieged import START, M, Make, World
from stand_in import status, well

from marketd.config import RedisConfig
from marketd.domain.rate_limit import RateLimit
from marketd.domain.timerange import TimeRange

ALL = {"since": START, "before": START + 600 * M}


def most_in_any(world: World, window_s: float) -> int:
    times = [one.at_s for one in world.vendor.asked]
    return max(sum(begin_s <= at_s < begin_s + window_s for at_s in times) for begin_s in times)


def asked_twice(world: World) -> list[tuple[str, TimeRange]]:
    seen: set[tuple[str, int]] = set()
    again = []
    for one in world.vendor.asked:
        if (one.symbol, one.span.start_ms) in seen:
            again.append((one.symbol, one.span))
        seen.add((one.symbol, one.span.start_ms))
    return again


async def test_a_rush_keeps_the_declared_limit_and_uses_nearly_all_of_it(make: Make) -> None:
    world = await make(settings={"requests": 50, "per_ms": 1_000, "burst": 4}, request_timeout=10_000)
    # The vendor grants what travelling makes of an even row, and no more.
    world.vendor.rate_limit = RateLimit(requests=50, per_ms=1_000, burst=10)
    loop = asyncio.get_running_loop()
    await world.bars(**ALL)
    world.vendor.asked.clear()
    begun_s = loop.time()
    answers = await asyncio.gather(*(world.bars(symbol=f"S{n}", **ALL) for n in range(10)))
    took_s = loop.time() - begun_s
    assert all(served == world.truth(0, 600) for served in answers)
    assert len(world.vendor.asked) == 10 * 6
    assert world.vendor.refused == 0
    assert asked_twice(world) == []
    assert most_in_any(world, 0.5) <= 25 + 4 + 2
    assert took_s >= (60 - 4 - 1) / 50
    # On an idle machine it is more than 0.95; a loaded one is given more time.
    assert 60 / took_s >= 0.6 * 50


async def test_two_daemons_with_one_key_share_its_limit_through_redis(
    make: Make, redis_url: str, tmp_path: Path
) -> None:
    limits = {"requests": 100, "per_ms": 1_000, "burst": 4}
    shared = RedisConfig(url=redis_url)
    # The vendor of the first serves both: a key belongs to a vendor.
    one = await make(settings=limits, redis=shared, request_timeout=10_000)
    other = await make(
        settings=limits | {"url": one.vendor.url},
        redis=shared,
        database=f"sqlite:///{tmp_path / 'b.db'}",
        request_timeout=10_000,
    )
    one.vendor.rate_limit = RateLimit(requests=100, per_ms=1_000, burst=10)
    asks = [world.bars(symbol=f"S{n}", **ALL) for n in range(8) for world in (one, other)]
    answers = await asyncio.gather(*asks)
    assert all(served == one.truth(0, 600) for served in answers)
    assert one.vendor.refused == 0
    # On a busy machine a call may run out of time, and is made again.
    assert 2 * 8 * 6 <= len(one.vendor.asked) <= 2 * 8 * 6 + 5


async def test_a_limit_lower_than_declared_is_found_out_and_nothing_is_lost(make: Make) -> None:
    world = await make(settings={"requests": 1_000, "per_ms": 1_000, "burst": 50})
    world.vendor.rate_limit = RateLimit(requests=20, per_ms=200, burst=1)

    async def insist(symbol: str) -> list[Any]:
        for _ in range(50):
            code, body, _ = await world.ask(symbol=symbol, **ALL)
            assert code in (200, 429), body
            if code == 200 and body["complete"]:
                return [tuple(row) for row in body["bars"]]
            if code == 200:
                assert {gap["reason"] for gap in body["gaps"]} == {"pending"}
        raise AssertionError("it never became whole")

    answers = await asyncio.gather(*(insist(f"S{n}") for n in range(8)))
    assert all(served == world.truth(0, 600) for served in answers)
    assert world.vendor.refused > 0
    assert world.metric("marketd_rate_limit_pauses_total") == world.vendor.refused
    # While the key has to wait, nobody knocks but who was on the way already.
    assert world.vendor.refused <= len(world.vendor.asked) / 2


async def test_a_long_patience_is_handed_on_at_once_and_nobody_knocks_meanwhile(world: World) -> None:
    loop = asyncio.get_running_loop()
    await world.bars(before=START + 100 * M)
    world.vendor.moods = [status(429, Retry_After="60")]
    begun_s = loop.time()
    code, body, headers = await world.ask(since=START + 200 * M)
    assert (code, body["code"]) == (429, "rate_limited")
    assert 59 <= int(headers["Retry-After"]) <= 60
    asked = len(world.vendor.asked)
    assert (await world.ask(symbol="S1"))[0] == 429
    code, body, _ = await world.ask()
    assert (code, body["complete"]) == (200, False)
    assert body["gaps"] == [{"start": START + 100 * M, "end": START + 300 * M, "reason": "pending"}]
    assert loop.time() - begun_s < 1
    assert len(world.vendor.asked) == asked


async def test_who_would_wait_longer_than_a_request_may_is_told_so_at_once(make: Make) -> None:
    # One for the symbols, one for a page; opening comes before the plugin knows its limit.
    world = await make(settings={"requests": 1, "per_ms": 30_000, "burst": 2})
    loop = asyncio.get_running_loop()
    assert await world.bars(before=START + 100 * M) == world.truth(0, 100)
    begun_s = loop.time()
    code, body, headers = await world.ask(since=START + 100 * M, before=START + 200 * M)
    assert (code, body["code"]) == (429, "rate_limited")
    assert 25 <= int(headers["Retry-After"]) <= 30
    assert loop.time() - begun_s < 1
    assert len(world.vendor.asked) == 1
    assert await world.bars(before=START + 100 * M) == world.truth(0, 100)


async def test_a_vendor_that_recovers_is_up_again(world: World) -> None:
    world.vendor.mood = status(500)
    await world.ask(before=START + 10 * M)
    assert world.metric("marketd_provider_up") == 0
    world.vendor.mood = well
    await world.bars(before=START + 10 * M)
    assert world.metric("marketd_provider_up") == 1
