"""Clients that come back, alone and all at once: what they missed, and what that costs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from scripted import MINUTE, START, M, bar

from marketd.domain.bar import Bar
from marketd.domain.errors import InvalidInput
from marketd.domain.resample import resample
from marketd.domain.timeframe import Timeframe
from marketd.streaming.ring import Cursor

FIVE = Timeframe.parse("5m")
HISTORY = [bar(minute) for minute in range(10)]
NOW = START + 10 * M + 20_000

Make = Callable[..., Any]


def goes_on(world: Any, minute: int, **changed: float) -> None:
    """The interval of a minute ends, and the stream says its bar."""
    world.clock.set(START + (minute + 1) * M + 1)
    world.says(bar(minute, **changed), closed=True)


async def back(world: Any, cursor: Cursor, timeframe: Timeframe = MINUTE) -> tuple[Any, bool]:
    """A client that comes back with its cursor, and whether it has been told all that it missed."""
    client = world.client()
    subscription, joined = world.subscribe(client, timeframe, cursor)
    recovered = await world.service.resume(world.feed, subscription, cursor, joined)
    subscription.go_live()
    return client, recovered


async def test_closed_bars_and_corrections_are_replayed_without_a_look_into_the_store(
    make_world: Make, reads: list[Any]
) -> None:
    world = make_world(HISTORY, NOW)
    watching = world.client()
    subscription, (cursor, _) = world.subscribe(watching)
    subscription.go_live()
    goes_on(world, 10)
    goes_on(world, 11)
    await watching.closed(2)
    world.says(bar(10, close=99.0), closed=True)
    await watching.closed(1)
    reads.clear()
    client, recovered = await back(world, cursor)
    assert (recovered, reads) == (True, [])
    assert await client.closed(3) == [bar(10), bar(11), bar(10, close=99.0)]
    goes_on(world, 12)
    assert await client.closed(1) == [bar(12)]


async def test_a_client_that_left_in_the_middle_of_its_history_gets_the_rest_of_it(
    make_world: Make,
) -> None:
    world = make_world(HISTORY, NOW)
    watching = world.client()
    subscription, (cursor, _) = world.subscribe(watching)
    subscription.go_live()
    goes_on(world, 10)
    await watching.closed(1)
    client, recovered = await back(world, cursor._replace(next_ms=START + 7 * M))
    assert recovered
    assert (await client.next("snapshot"))["bars"] == [list(one) for one in HISTORY[7:]]
    assert await client.closed(1) == [bar(10)]


async def stood(world: Any, timeframe: Timeframe = MINUTE) -> Cursor:
    """Where a client stands after twenty minutes, in one of which there was no trade."""
    client = world.client()
    world.subscribe(client, timeframe)[0].go_live()
    for minute in (*range(10, 17), *range(18, 20)):
        goes_on(world, minute)
    while True:
        world.says(bar(20, close=1.0), closed=False)
        cursor = Cursor.parse((await client.next("bar"))["cursor"], field="resume")
        stored = await world.storage.revised(world.feed.series, after=0, limit=0)
        if (cursor.next_ms, cursor.number) == (START + 20 * M, stored.number):
            return cursor


@pytest.mark.parametrize("timeframe", [MINUTE, FIVE])
async def test_beyond_the_ring_the_store_has_the_bars_and_what_has_changed_of_those_before(
    make_world: Make, timeframe: Timeframe, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make_world(HISTORY, NOW)
    cursor = await stood(world, timeframe)
    corrected, late = bar(15, close=77.0), bar(17)
    await world.storage.store(world.feed.series, [corrected, late], [], at_ms=NOW)
    # Another daemon over the same store, as after a restart: it has not said a word.
    bars = [bar(minute) for minute in range(20, 25)]
    other = make_world(bars, START + 25 * M + 20_000)
    revised, asked = other.storage.revised, []

    async def counted(*args: Any, **options: Any) -> Any:
        asked.append(options["limit"])
        return await revised(*args, **options)

    monkeypatch.setattr(other.storage, "revised", counted)
    if timeframe == MINUTE:
        changed = [corrected, late]
    else:
        changed = resample([corrected, bar(16), late, bar(18), bar(19)], FIVE)
    for client, recovered in await asyncio.gather(*(back(other, cursor, timeframe) for _ in range(20))):
        assert recovered
        told = [await client.next() for _ in changed]
        assert [(tuple(one["bar"]), one["closed"], one["rev"]) for one in told] == [
            (one, True, 1) for one in changed
        ]
        snapshot = await client.next()
        assert [tuple(one) for one in snapshot["bars"]] == resample(bars, timeframe)
    assert len([limit for limit in asked if limit]) == 1


@pytest.mark.parametrize("since", [NOW, NOW + 60 * M])
async def test_who_has_asked_from_within_the_forming_bar_or_later_misses_no_bar(
    make_world: Make, since: int
) -> None:
    world = make_world(HISTORY, NOW)
    client = world.client()
    await world.join(client, MINUTE, since)
    snapshot = await client.next("snapshot")
    assert snapshot["bars"] == []
    other = make_world([bar(10), bar(11)], START + 12 * M + 20_000)
    cursor = Cursor.parse(snapshot["cursor"], field="resume")
    returned, recovered = await back(other, cursor)
    assert recovered
    bars = (await returned.next("snapshot"))["bars"]
    assert [tuple(one) for one in bars] == [bar(10), bar(11)]


async def test_where_nobody_can_know_what_has_changed_that_is_said(make_world: Make) -> None:
    world = make_world(HISTORY, NOW)
    cursor = await stood(world)
    other = make_world([bar(20)], START + 21 * M + 20_000)
    for unknown in (cursor._replace(number=None), cursor._replace(number=99)):
        client, recovered = await back(other, unknown)
        assert not recovered
        assert [tuple(one) for one in (await client.next())["bars"]] == [bar(20)]


async def test_a_cursor_of_the_future_is_refused(make_world: Make) -> None:
    world = make_world(HISTORY, NOW)
    cursor = await stood(world)
    with pytest.raises(InvalidInput, match="still to come") as refused:
        world.subscribe(world.client(), MINUTE, cursor._replace(next_ms=START + 22 * M))
    assert refused.value.field == "resume"


async def test_a_stream_that_was_made_of_another_is_replayed_too(make_world: Make) -> None:
    world = make_world(HISTORY, NOW)
    watching = world.client()
    subscription, (cursor, _) = world.subscribe(watching, FIVE)
    subscription.go_live()
    for minute in range(10, 20):
        goes_on(world, minute)
    bars = await watching.closed(2)
    client, recovered = await back(world, cursor, FIVE)
    assert recovered
    assert await client.closed(2) == bars


async def test_a_crowd_that_comes_back_reads_each_page_once(make_world: Make, reads: list[Any]) -> None:
    history = [bar(minute) for minute in range(4_000)]
    world = make_world(history, START + 4_000 * M + 20_000)
    await world.join(world.client(), MINUTE, START)
    reads.clear()
    clients = [world.client() for _ in range(200)]
    since = iter(range(START - 200, START))

    async def told(client: Any) -> list[Bar]:
        bars: list[Bar] = []
        while len(bars) < 4_000:
            bars += [tuple(one) for one in (await client.next("snapshot"))["bars"]]
        return bars

    # Half of them at once, the others one after another; each from a moment of its own.
    late = clients[100:]
    await asyncio.gather(*(world.join(client, MINUTE, next(since)) for client in clients[:100]))
    for client in late:
        await world.join(client, MINUTE, next(since))
    assert all(one == history for one in await asyncio.gather(*map(told, clients)))
    assert len(reads) <= 4


async def test_what_has_changed_is_not_served_from_a_page_read_before(make_world: Make) -> None:
    world = make_world(HISTORY, NOW)
    first = world.client()
    await world.join(first, MINUTE, START)
    assert [tuple(one) for one in (await first.next("snapshot"))["bars"]] == HISTORY
    await world.storage.store(world.feed.series, [bar(3, close=77.0)], [], at_ms=NOW)
    second = world.client()
    await world.join(second, MINUTE, START)
    assert tuple((await second.next("snapshot"))["bars"][3]) == bar(3, close=77.0)


async def test_many_points_at_once_leave_room_for_what_is_live(
    make_world: Make, reads: list[Any]
) -> None:
    world = make_world([bar(minute) for minute in range(500)], START + 500 * M + 20_000)
    await world.join(world.client(), MINUTE, START)
    clients = [world.client() for _ in range(100)]
    joins = [
        asyncio.ensure_future(world.join(client, MINUTE, START + number * M))
        for number, client in enumerate(clients)
    ]
    await asyncio.gather(*joins)
    assert max(reads) <= 8
