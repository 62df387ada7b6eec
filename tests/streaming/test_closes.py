"""Bars of a second: a quiet market is seldom asked about, and no bar closes later for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from listening import turns
from scripted import INSTRUMENT, START, RememberingPlugin, feed_of, provider_of, scripted
from test_live_time_bars import DAY, S, Trading, tick
from world import World

from marketd.clock import ManualClock
from marketd.domain.bar import Bar
from marketd.domain.instrument import Series
from marketd.domain.tick_bars import bars_of_ticks
from marketd.domain.timeframe import Timeframe
from marketd.plugins import RateLimit
from marketd.streaming.closes import watch_closes

SECOND = Timeframe.parse("1s")
LIMIT = RateLimit(1_000_000, 1_000)
# A stream has so long after a close; these providers settle at once.
LAG = S
# When it is looked after a quiet of growing length, and how often that is in a minute.
GROWING = [1, 2, 4, 8, 13, 18]
OFTEN = 14

MakeWorld = Callable[..., Any]


async def looks(
    told: Collection[int] = (), *, timeframe: str = "1s", limit: RateLimit | None = LIMIT
) -> list[int]:
    """Up to which second it is looked in a minute, each as soon as that is over.

    `told` are the seconds of which something is told while they last.
    """
    clock = ManualClock(START)
    plugin = scripted([], now_ms=START, timeframes=[Timeframe.parse(timeframe)], clock=clock)
    plugin.rate_limit = limit
    feed = feed_of(provider_of(plugin), plugin.timeframes[0])
    told_ms = START
    found: list[int] = []

    async def look(until_ms: int) -> None:
        assert clock.now_ms() == until_ms + LAG
        found.append((until_ms - START) // S)

    watching = asyncio.create_task(
        watch_closes(feed, look, passed_ms=START, lag_ms=LAG, told_ms=lambda: told_ms)
    )
    for second in range(62):
        if second in told:
            told_ms = START + second * S
        await turns()
        clock.advance(S)
    watching.cancel()
    return found


async def test_the_longer_a_market_is_quiet_the_more_one_look_proves() -> None:
    assert (await looks())[: len(GROWING)] == GROWING
    assert len(await looks()) == OFTEN


async def test_where_something_is_told_each_second_it_is_looked_each_second() -> None:
    assert await looks(range(61)) == list(range(1, 61))


@pytest.mark.parametrize(
    ("more", "step"),
    [({"timeframe": "5s"}, 5), ({"timeframe": "15s"}, 15), ({"limit": None}, 1)],
)
async def test_what_costs_little_is_looked_at_after_each_close(more: Any, step: int) -> None:
    assert await looks(**more) == list(range(step, 61, step))


@given(told=st.sets(st.integers(0, 58)))
def test_what_was_told_and_what_follows_it_is_looked_at_once(told: set[int]) -> None:
    found = asyncio.run(looks(told))
    assert {second + 1 for second in told} | {second + 2 for second in told} <= set(found)
    assert all(0 < later - one <= 5 for one, later in zip([0, *found], [*found, 61], strict=True))


@pytest.fixture
def seconds(make_world: MakeWorld) -> MakeWorld:
    """A world whose series has bars of a second, of a provider that counts its requests."""

    def make(**options: Any) -> World:
        world: World = make_world([], START, **options)
        world.plugin.rate_limit = LIMIT
        world.feed = replace(world.feed, series=Series(INSTRUMENT, SECOND))
        return world

    return make


@pytest.fixture
async def trading(seconds: MakeWorld) -> Trading:
    return Trading(seconds(cls=RememberingPlugin, timeframes=[DAY]))


def second_bar(second: int) -> Bar:
    return (START + second * S, 100.0, 101.0, 99.0, 100.0, 1.0)


async def test_a_quiet_minute_of_trades_costs_few_requests_and_its_next_bar_comes_at_once(
    trading: Trading,
) -> None:
    client = trading.world.client()
    await trading.world.join(client, SECOND, START)
    await trading.says(tick(100))
    await trading.until(60 * S)
    # Beside the looks, what has closed is fetched once more every ten seconds or so.
    assert len(trading.plugin.asked) <= OFTEN + 7
    await trading.says(tick(60 * S + 200))
    trading.clock.set(START + 61 * S + LAG)
    assert await client.closed(2) == bars_of_ticks(trading.said, SECOND)


async def test_a_quiet_minute_of_bars_costs_few_requests_and_its_next_bar_comes_at_once(
    seconds: MakeWorld,
) -> None:
    world = seconds(timeframes=[SECOND])
    client = world.client()
    await world.join(client, SECOND, START)
    world.says(second_bar(0), closed=True)
    await Trading(world).until(60 * S)
    assert len(world.plugin.calls) <= OFTEN + 2
    world.plugin.bars = [second_bar(60)]
    world.says(second_bar(60), closed=False)
    while (await client.next("bar"))["closed"]:
        pass
    world.clock.set(START + 61 * S + LAG)
    assert await client.closed(1) == [second_bar(60)]


async def test_while_the_stream_of_trades_is_down_each_second_is_asked_for(trading: Trading) -> None:
    client = trading.world.client()
    await trading.world.join(client, SECOND, START)
    await trading.until(GROWING[-1] * S + LAG)
    await trading.breaks()
    assert (await client.next("status"))["state"] == "down"
    for second in (19, 20):
        trading.plugin.past.append(tick(second * S + 200))
        trading.clock.set(START + (second + 1) * S + LAG)
        assert await client.closed(1) == bars_of_ticks([tick(second * S + 200)], SECOND)


async def test_once_history_tells_what_a_stream_kept_to_itself_each_second_is_asked_for(
    trading: Trading,
) -> None:
    client = trading.world.client()
    await trading.world.join(client, SECOND, START)
    await trading.until(GROWING[-1] * S + LAG)
    trading.plugin.past = [tick(second * S + 200) for second in (20, 22, 23)]
    await trading.until(23 * S + LAG)
    assert await client.closed(2) == bars_of_ticks(trading.plugin.past[:2], SECOND)
    trading.clock.set(START + 24 * S + LAG)
    assert await client.closed(1) == bars_of_ticks(trading.plugin.past[2:], SECOND)
