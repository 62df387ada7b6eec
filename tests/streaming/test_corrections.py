"""Bars that change after they were published, whoever changes them: told once, with their revision."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted import MINUTE, START, M, ScriptedPlugin, StreamingPlugin, bar

from marketd.domain.bar import Bar
from marketd.domain.coverage import Covered, Reason
from marketd.domain.resample import resample
from marketd.domain.timeframe import Timeframe
from marketd.domain.timerange import TimeRange
from marketd.streaming.corrections import Corrections
from marketd.streaming.events import BarEvent, ChangesTold, Event
from marketd.streaming.polling import next_poll_ms

FIVE = Timeframe.parse("5m")
HISTORY = [bar(minute) for minute in range(10)]
NOW = START + 10 * M + 20_000

Make = Callable[..., Any]


class Corrected(StreamingPlugin):
    """Its history may say something else of a bar than its stream has said."""

    is_authoritative = False


async def told(client: Any) -> tuple[Bar, int]:
    message = await client.next("bar")
    while not message["closed"]:
        message = await client.next("bar")
    return tuple(message["bar"]), message["rev"]


async def followed(world: Any, minutes: range = range(10, 12)) -> tuple[Any, Any]:
    """Clients of 1m and 5m, once some minutes have closed."""
    client, five = world.client(), world.client()
    world.subscribe(client)[0].go_live()
    world.subscribe(five, FIVE)[0].go_live()
    world.clock.set(START + minutes[0] * M + 20_000)
    world.says(bar(minutes[0], close=1.0), closed=False)
    await client.next("bar")
    for minute in minutes:
        world.clock.set(START + (minute + 1) * M + 1)
        world.says(bar(minute), closed=True)
        assert await told(client) == (bar(minute), 0)
    return client, five


async def test_what_anybody_stores_over_a_published_bar_is_told_with_its_revision(
    make_world: Make,
) -> None:
    world = make_world(HISTORY, NOW)
    client, five = await followed(world, range(10, 15))
    assert await told(five) == (resample([bar(minute) for minute in range(10, 15)], FIVE)[0], 0)
    for rev, close in ((1, 50.0), (2, 60.0)):
        changed = bar(11, close=close)
        await world.storage.store(world.feed.series, [bar(10), changed], [], at_ms=NOW)
        assert await told(client) == (changed, rev)
        whole = resample([bar(10), changed, *(bar(minute) for minute in range(12, 15))], FIVE)[0]
        assert await told(five) == (whole, rev)
    assert (await world.rest(FIVE, START + 10 * M))[0] == whole


async def test_two_bars_of_one_bucket_make_two_revisions_of_it(make_world: Make) -> None:
    world = make_world(HISTORY, NOW)
    _, five = await followed(world, range(10, 15))
    await told(five)
    for rev, minute in ((1, 11), (2, 13)):
        await world.storage.store(world.feed.series, [bar(minute, close=50.0)], [], at_ms=NOW)
        assert (await told(five))[1] == rev


async def test_a_bucket_that_changes_while_it_is_read_is_told_as_it_has_become(
    make_world: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make_world(HISTORY, NOW)
    _, five = await followed(world, range(10, 15))
    await told(five)
    past, second = world.orchestrator.past, bar(13, close=60.0)

    async def meanwhile(*args: Any, **options: Any) -> Any:
        found = await past(*args, **options)
        await world.storage.store(world.feed.series, [second], [], at_ms=NOW)
        return found

    monkeypatch.setattr(world.orchestrator, "past", meanwhile)
    first = bar(11, close=50.0)
    await world.storage.store(world.feed.series, [first], [], at_ms=NOW)
    await told(five)
    whole = resample([bar(10), first, bar(12), second, bar(14)], FIVE)[0]
    assert await told(five) == (whole, 2)


async def test_a_bar_of_before_the_first_client_is_told_too(make_world: Make) -> None:
    world = make_world(HISTORY, NOW)
    await world.rest(MINUTE, START)
    client, five = await followed(world)
    await world.storage.store(world.feed.series, [bar(3, close=50.0)], [], at_ms=NOW)
    assert await told(client) == (bar(3, close=50.0), 1)
    changed = [*HISTORY[:3], bar(3, close=50.0), HISTORY[4]]
    assert await told(five) == (resample(changed, FIVE)[0], 1)


async def test_a_bar_where_there_was_none_is_told_as_a_revision(make_world: Make) -> None:
    world = make_world([*HISTORY, bar(12)], NOW)
    client, _ = await followed(world, range(12, 13))
    proven = [Covered(bar(11)[0], bar(12)[0], Reason.DATA)]
    await world.storage.store(world.feed.series, [bar(11)], proven, at_ms=NOW)
    assert await told(client) == (bar(11), 1)
    await world.storage.store(world.feed.series, [bar(11, close=50.0)], [], at_ms=NOW)
    assert await told(client) == (bar(11, close=50.0), 2)


async def test_a_stream_that_is_not_the_last_word_is_checked_once_after_each_close(
    make_world: Make,
) -> None:
    world = make_world(HISTORY, NOW, cls=Corrected)
    client, _ = await followed(world, range(10, 14))
    world.plugin.bars += [bar(minute) for minute in range(10, 14)]
    world.plugin.bars[-2:] = [bar(12, close=50.0), bar(13, close=51.0)]
    world.plugin.calls.clear()
    async with asyncio.timeout(30):
        while not any(asked.end_ms == START + 14 * M for asked in world.plugin.calls):
            world.clock.advance(1_000)
            await asyncio.sleep(0.002)
    assert await told(client) == (bar(12, close=50.0), 1)
    assert await told(client) == (bar(13, close=51.0), 1)
    # Two bars before those that have closed since the last time, and only closed ones.
    assert world.plugin.calls[-1].start_ms <= START + 11 * M
    assert START + 14 * M + 10_000 <= world.clock.now_ms() < START + 14 * M + 17_000


async def test_a_stream_that_is_the_last_word_costs_no_request(make_world: Make) -> None:
    world = make_world(HISTORY, NOW)
    await followed(world, range(10, 14))
    world.plugin.calls.clear()
    for _ in range(50):
        world.clock.advance(1_000)
        await asyncio.sleep(0.002)
    # That it is mute is found out by looking at the bar that forms.
    assert all(asked.start_ms == START + 14 * M for asked in world.plugin.calls)


async def test_a_poll_sees_what_was_corrected_in_the_last_two_bars(make_world: Make) -> None:
    world = make_world(HISTORY, NOW, cls=ScriptedPlugin)
    client = world.client()
    world.subscribe(client)[0].go_live()
    world.plugin.bars += [bar(10), bar(11), bar(12, close=7.0)]
    world.clock.set(START + 12 * M + 3_000)
    assert [await told(client), await told(client)] == [(bar(10), 0), (bar(11), 0)]
    world.plugin.calls.clear()
    world.plugin.bars[10] = bar(10, close=50.0)
    world.clock.set(START + 12 * M + 20_000)
    assert await told(client) == (bar(10, close=50.0), 1)
    # One request brings the corrections and the forming bar.
    forming = await client.next("bar")
    assert (tuple(forming["bar"]), forming["closed"]) == (bar(12, close=7.0), False)
    assert world.plugin.calls == [TimeRange(START + 10 * M, START + 13 * M)]


@given(
    timeframe=st.sampled_from(["1s", "1m", "5m", "1h", "1d"]).map(Timeframe.parse),
    now_ms=st.integers(START, START + 10**9),
    lag_ms=st.integers(0, 100_000),
)
def test_polls_follow_each_close_and_come_in_between(
    timeframe: Timeframe, now_ms: int, lag_ms: int
) -> None:
    at_ms = next_poll_ms(timeframe, now_ms, lag_ms)
    assert now_ms < at_ms <= now_ms + 15_000
    close_ms = timeframe.end(now_ms - lag_ms) + lag_ms
    assert at_ms <= close_ms
    polls = [at_ms]
    while polls[-1] < close_ms:
        polls.append(next_poll_ms(timeframe, polls[-1], lag_ms))
    assert polls[-1] == close_ms


class Told:
    """What Corrections tell of bars that change in any order of publishing and storing."""

    def __init__(self, world: Any) -> None:
        self.events: asyncio.Queue[Event] = asyncio.Queue()
        self._world = world
        self.corrections = Corrections(world.storage, world.feed.series, START, self.events.put_nowait)
        world.storage.listen(self.corrections.changed)
        world.supervisor.run("corrections", self.corrections.run)

    async def store(self, minute: int, close: float) -> None:
        await self._world.storage.store(
            self._world.feed.series, [bar(minute, close=close)], [], at_ms=NOW
        )

    async def next(self) -> list[Event]:
        """What is told next, up to a number."""
        events: list[Event] = []
        async with asyncio.timeout(10):
            while not isinstance(event := await self.events.get(), ChangesTold):
                events.append(event)
        return events


async def test_a_bar_that_is_revised_while_it_is_published_is_told_as_it_has_become(
    make_world: Make,
) -> None:
    told = Told(make_world(HISTORY, NOW))
    assert await told.next() == []
    await told.store(0, 1.0)
    await told.store(0, 50.0)
    assert await told.next() == []
    told.corrections.published([bar(0, close=1.0)], START + M)
    assert told.events.get_nowait() == BarEvent(bar(0, close=50.0), True, 1)
    await told.store(1, 1.0)
    await told.store(1, 50.0)
    assert await told.next() == []
    told.corrections.published([bar(1, close=50.0)], START + 2 * M)
    assert told.events.empty()


async def test_what_another_process_may_have_changed_is_looked_for(make_world: Make) -> None:
    world = make_world(HISTORY, NOW)
    client, _ = await followed(world, range(10, 13))
    (listener,) = world.storage._listeners
    world.storage._listeners.clear()
    await world.storage.store(world.feed.series, [bar(11, close=50.0)], [], at_ms=NOW)
    listener(None)
    assert await told(client) == (bar(11, close=50.0), 1)
