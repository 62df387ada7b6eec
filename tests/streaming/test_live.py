"""From a provider's stream to a client: in order, once, stored first, joined to history."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from typing import Any

import pytest
from scripted import MINUTE, START, M, ScriptedPlugin, StreamingPlugin, bar

from marketd.clock import ScaledClock
from marketd.domain.bar import Bar
from marketd.domain.coverage import Covered, Reason
from marketd.domain.errors import ProviderFailed
from marketd.domain.resample import resample
from marketd.domain.timeframe import Timeframe
from marketd.domain.timerange import TimeRange
from marketd.storage import Storage
from marketd.storage.records import Stored
from marketd.streaming import retry
from marketd.streaming.derive import Deriver
from marketd.streaming.events import BarEvent, Event

FIVE = Timeframe.parse("5m")
HISTORY = [bar(minute) for minute in range(10)]
NOW = START + 10 * M + 20_000

Make = Callable[..., Any]


async def test_forming_then_closed_and_the_closed_bar_is_in_the_store_by_then(make_world: Make) -> None:
    world = make_world(HISTORY, NOW)
    client = world.client()
    subscription, joined = world.subscribe(client)
    subscription.go_live()
    assert joined.live_ms == START + 10 * M
    world.says(bar(10, close=50.0), closed=False)
    forming = await client.next("bar")
    assert (tuple(forming["bar"]), forming["closed"], forming["rev"]) == (bar(10, close=50.0), False, 0)
    world.clock.set(START + 11 * M + 1)
    world.says(bar(10), closed=True)
    closed = await client.next("bar")
    assert (tuple(closed["bar"]), closed["closed"]) == (bar(10), True)
    stored = await world.storage.read(world.feed.series, TimeRange(START, START + 20 * M), limit=50)
    assert stored.bars == [bar(10)]
    assert stored.coverage == [Covered(START + 10 * M, START + 11 * M, Reason.DATA)]


async def test_it_is_measured_how_late_a_closed_bar_is_told(make_world: Make) -> None:
    world = make_world(HISTORY, NOW)
    client = world.client()
    world.subscribe(client)[0].go_live()
    world.says(bar(10), closed=False)
    await client.next("bar")
    world.clock.set(START + 11 * M + 250)
    world.says(bar(10), closed=True)
    await client.closed(1)
    lags = [
        world.metrics.registry.get_sample_value(
            f"marketd_stream_lag_seconds_{what}", {"provider": "test"}
        )
        for what in ("count", "sum")
    ]
    assert lags == [1, pytest.approx(0.25)]


async def test_a_closed_bar_that_is_not_told_yet_counts_for_the_gate_of_background_work(
    make_world: Make, storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make_world(HISTORY, NOW)
    gate, store, was_open = world.gate, storage.store, []

    async def seen(*args: Any, **options: Any) -> Stored:
        was_open.append(gate.is_open)
        return await store(*args, **options)

    monkeypatch.setattr(storage, "store", seen)
    client = world.client()
    world.subscribe(client)[0].go_live()
    with ExitStack() as others:
        enough = 0
        while gate.is_open:
            others.enter_context(gate.urgent())
            enough += 1
    with ExitStack() as others:
        for _ in range(enough - 1):
            others.enter_context(gate.urgent())
        assert gate.is_open
        world.clock.set(START + 11 * M + 1)
        world.says(bar(10), closed=True)
        await client.closed(1)
        assert was_open[-1] is False
        assert gate.is_open


async def test_history_and_live_join_without_a_hole_or_a_repeat(make_world: Make) -> None:
    world = make_world(HISTORY, NOW)
    client = world.client()
    subscription, joined = world.subscribe(client)
    # The bar closes while the client still catches up.
    world.clock.set(START + 11 * M + 1)
    world.says(bar(10), closed=True)
    world.says(bar(11, close=70.0), closed=False)
    other = world.client()
    second, _ = world.subscribe(other)
    second.go_live()
    await other.closed(1)
    assert await world.service.catch_up(world.feed, subscription, START + 3 * M, joined)
    subscription.go_live()
    snapshot = await client.next()
    assert snapshot["type"] == "snapshot"
    assert snapshot["complete"]
    assert [tuple(one) for one in snapshot["bars"]] == HISTORY[3:]
    assert await client.closed(1) == [bar(10)]


async def test_a_long_history_comes_in_pages(make_world: Make) -> None:
    bars = [bar(minute) for minute in range(4_500)]
    world = make_world(bars, START + 4_500 * M)
    client = world.client()
    joining = asyncio.ensure_future(world.join(client, MINUTE, START))
    seen: list[Bar] = []
    while len(seen) < 4_500:
        snapshot = await client.next("snapshot")
        assert len(snapshot["bars"]) <= 2_000
        seen += [tuple(one) for one in snapshot["bars"]]
    await joining
    assert seen == bars


async def test_what_the_stream_leaves_out_comes_from_history_first(make_world: Make) -> None:
    world = make_world([bar(minute) for minute in range(13)], NOW)
    client = world.client()
    world.subscribe(client)[0].go_live()
    world.clock.set(START + 13 * M + 1)
    world.says(bar(12), closed=True)
    assert await client.closed(3) == [bar(10), bar(11), bar(12)]


async def test_a_quiet_interval_is_passed_without_a_bar(make_world: Make) -> None:
    world = make_world([*HISTORY, bar(12)], NOW)
    client = world.client()
    five = world.client()
    world.subscribe(client)[0].go_live()
    world.subscribe(five, FIVE)[0].go_live()
    world.clock.set(START + 13 * M + 1)
    world.says(bar(12), closed=True)
    assert await client.closed(1) == [bar(12)]
    world.clock.set(START + 15 * M + 2_000)
    assert await five.closed(1) == resample([bar(12)], FIVE)


async def test_a_close_that_the_stream_never_says_is_found_by_the_clock(make_world: Make) -> None:
    world = make_world([*HISTORY, bar(10)], NOW)
    client = world.client()
    world.subscribe(client)[0].go_live()
    world.says(bar(10, close=50.0), closed=False)
    await client.next("bar")
    world.clock.set(START + 11 * M + 1_001)
    assert await client.closed(1) == [bar(10)]


async def test_a_late_closed_bar_that_differs_is_a_revision(make_world: Make) -> None:
    world = make_world([*HISTORY, bar(10)], NOW)
    client = world.client()
    world.subscribe(client)[0].go_live()
    world.clock.set(START + 11 * M + 1)
    world.says(bar(10), closed=True)
    await client.closed(1)
    world.says(bar(10), closed=True)
    world.says(bar(10, close=99.0), closed=True)
    revision = await client.next("bar")
    assert (tuple(revision["bar"]), revision["closed"], revision["rev"]) == (
        bar(10, close=99.0),
        True,
        1,
    )


async def test_a_bar_that_comes_after_its_interval_was_passed_as_empty_is_a_revision(
    make_world: Make,
) -> None:
    world = make_world([*HISTORY, bar(14)], NOW)
    client, five = world.client(), world.client()
    world.subscribe(client)[0].go_live()
    world.subscribe(five, FIVE)[0].go_live()
    world.clock.set(START + 15 * M + 1)
    world.says(bar(14), closed=True)
    assert await client.closed(1) == [bar(14)]
    assert await five.closed(1) == resample([bar(14)], FIVE)
    world.says(bar(11), closed=True)
    late = await client.next("bar")
    assert (tuple(late["bar"]), late["closed"], late["rev"]) == (bar(11), True, 1)
    revised = await five.next("bar")
    assert (tuple(revised["bar"]), revised["rev"]) == (resample([bar(11), bar(14)], FIVE)[0], 1)
    assert list(await world.rest(FIVE, START + 10 * M)) == resample([bar(11), bar(14)], FIVE)


async def test_derived_bars_equal_what_history_says_later(make_world: Make) -> None:
    bars = [bar(minute, volume=0.1 * minute) for minute in range(31)]
    world = make_world(bars, NOW)
    client = world.client()
    await world.join(client, FIVE, START)
    for minute in range(10, 31):
        world.clock.set(START + (minute + 1) * M)
        world.says(bars[minute], closed=True)
    live = await client.closed(4)
    assert live == resample(bars, FIVE)[2:6]
    assert live == list(await world.rest(FIVE, START + 10 * M))[:4]


async def test_a_forming_derived_bar_holds_the_closed_part_of_its_bucket(make_world: Make) -> None:
    world = make_world([bar(minute) for minute in range(13)], START + 12 * M + 5_000)
    client = world.client()
    world.subscribe(client, FIVE)[0].go_live()
    world.says(bar(12, close=500.0), closed=False)
    message = await client.next("bar")
    assert tuple(message["bar"]) == resample([bar(10), bar(11), bar(12, close=500.0)], FIVE)[0]


async def test_a_thousand_clients_cost_one_upstream(make_world: Make) -> None:
    world = make_world(HISTORY, NOW)
    clients = [world.client() for _ in range(1_000)]
    for index, client in enumerate(clients):
        world.subscribe(client, FIVE if index % 2 else MINUTE)[0].go_live()
    world.clock.set(START + 11 * M + 1)
    world.says(bar(10), closed=True)
    for client in clients:
        await client.next("bar")
    assert world.plugin.streams == 1


async def test_the_upstream_ends_some_time_after_the_last_client(make_world: Make) -> None:
    world = make_world(HISTORY, NOW)
    client = world.client()
    subscription, _ = world.subscribe(client)
    subscription.go_live()
    world.says(bar(10), closed=False)
    await client.next("bar")
    world.service.unsubscribe(world.feed, subscription)
    again, _ = world.subscribe(client)
    again.go_live()
    world.says(bar(10, close=51.0), closed=False)
    await client.next("bar")
    assert world.plugin.streams == 1
    world.service.unsubscribe(world.feed, again)
    await asyncio.wait_for(world.plugin.ended.wait(), 30)


async def test_one_clients_unsubscribe_never_holds_up_anothers_subscribe(make_world: Make) -> None:
    world = make_world(HISTORY, NOW)
    world.plugin.let_go.clear()
    service = world.service
    # Neither waits for anything while it changes what is followed, so that nothing is held meanwhile.
    assert not any(map(inspect.iscoroutinefunction, (service.subscribe, service.unsubscribe)))
    client, other = world.client(), world.client()
    subscription, _ = world.subscribe(client)
    subscription.go_live()
    world.says(bar(10), closed=False)
    await client.next("bar")
    service.unsubscribe(world.feed, subscription)
    await asyncio.wait_for(world.plugin.ended.wait(), 10)
    world.subscribe(other)[0].go_live()
    world.clock.set(START + 11 * M + 1)
    world.says(bar(10), closed=True)
    assert await other.closed(1) == [bar(10)]
    assert world.plugin.streams == 2
    world.plugin.let_go.set()


async def test_what_a_long_silence_held_back_cuts_nobody_who_reads(make_world: Make) -> None:
    world = make_world([bar(minute) for minute in range(5_000)], NOW)
    client = world.client()
    world.subscribe(client)[0].go_live()
    world.clock.set(START + 5_000 * M + 20_000)
    world.says(bar(5_000), closed=False)
    assert await client.closed(4_990) == [bar(minute) for minute in range(10, 5_000)]
    assert not client.is_cut


async def test_a_broken_stream_is_told_mended_and_leaves_no_hole(make_world: Make) -> None:
    world = make_world([bar(minute) for minute in range(14)], NOW)
    client = world.client()
    world.subscribe(client)[0].go_live()
    world.plugin.updates.put_nowait(ProviderFailed("the wire broke."))
    down = await client.next("status")
    assert (down["state"], down["message"]) == ("down", "the wire broke.")
    world.clock.set(START + 13 * M + 30_000)
    assert await client.closed(3) == [bar(10), bar(11), bar(12)]
    world.says(bar(13), closed=False)
    live = await client.next("status")
    assert live["state"] == "live"
    assert world.plugin.streams == 2


async def test_a_foreign_exception_of_a_stream_is_a_failure_without_its_text(make_world: Make) -> None:
    world = make_world(HISTORY, NOW)
    client = world.client()
    world.subscribe(client)[0].go_live()
    world.plugin.updates.put_nowait(RuntimeError("https://x?key=secret"))
    down = await client.next("status")
    assert down["message"] == "test failed with RuntimeError."


async def test_a_history_that_fails_is_a_gap_and_live_goes_on(make_world: Make) -> None:
    world = make_world(HISTORY, NOW)

    def fail(_: object) -> None:
        raise ProviderFailed("no.", transient=False)

    world.plugin.answers = [fail]
    client = world.client()
    subscription, joined = world.subscribe(client)
    assert not await world.service.catch_up(world.feed, subscription, START, joined)
    subscription.go_live()
    snapshot = await client.next("snapshot")
    assert (snapshot["bars"], snapshot["complete"]) == ([], False)
    gap = await client.next("gap")
    assert (gap["start"], gap["end"], gap["reason"]) == (START, START + 10 * M, "feed_down")
    world.clock.set(START + 11 * M + 1)
    world.says(bar(10), closed=True)
    assert await client.closed(1) == [bar(10)]


async def test_a_provider_without_a_stream_is_polled(make_world: Make) -> None:
    world = make_world([*HISTORY, bar(10)], NOW, cls=ScriptedPlugin)
    client = world.client()
    world.subscribe(client)[0].go_live()
    forming = await client.next("bar")
    assert (tuple(forming["bar"]), forming["closed"]) == (bar(10), False)
    world.clock.set(START + 11 * M + 1_001)
    assert await client.closed(1) == [bar(10)]


async def test_bars_with_parameters_are_polled_since_a_stream_knows_of_none(make_world: Make) -> None:
    world = make_world([*HISTORY, bar(10)], NOW)
    adjusted = world.feed.series._replace(variant="adjustment=split")
    world.feed = replace(world.feed, series=adjusted, params={"adjustment": "split"})
    client = world.client()
    world.subscribe(client)[0].go_live()
    assert tuple((await client.next("bar"))["bar"]) == bar(10)
    assert world.plugin.streams == 0


async def test_a_series_that_the_plugin_has_no_stream_of_is_polled(make_world: Make) -> None:
    class OfFives(StreamingPlugin):
        def streams_bars_of(self, symbol: str, timeframe: Timeframe) -> bool:
            return timeframe == FIVE

    world = make_world([*HISTORY, bar(10)], NOW, cls=OfFives)
    client = world.client()
    world.subscribe(client)[0].go_live()
    assert tuple((await client.next("bar"))["bar"]) == bar(10)
    assert world.plugin.streams == 0


async def test_a_bar_that_cannot_be_had_is_told_as_a_gap_and_passed(make_world: Make) -> None:
    wrong = (bar(11)[0], 1.0, 0.5, 2.0, 1.0, 1.0)
    world = make_world([*HISTORY, bar(10), wrong, bar(12)], NOW)
    client, five = world.client(), world.client()
    world.subscribe(client)[0].go_live()
    world.subscribe(five, FIVE)[0].go_live()
    world.clock.set(START + 13 * M + 1)
    world.says(bar(12), closed=True)
    gap = await client.next("gap")
    assert (gap["start"], gap["end"], gap["reason"]) == (START + 11 * M, START + 12 * M, "unrecoverable")
    assert await client.closed(2) == [bar(10), bar(12)]
    assert (await five.next("gap"))["start"] == START + 11 * M


async def test_a_stream_that_breaks_again_and_again_is_begun_anew_ever_less_often(
    make_world: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = make_world([bar(minute) for minute in range(1_000)], NOW)
    pauses = []

    async def passing(longest_s: float) -> None:
        pauses.append(longest_s)
        world.clock.advance(M)

    monkeypatch.setattr(retry, "pause", passing)
    client = world.client()
    world.subscribe(client)[0].go_live()
    async with asyncio.timeout(20):
        while 30.0 not in pauses:
            world.plugin.updates.put_nowait(ProviderFailed("gone."))
            # Meanwhile history has each bar that closes.
            await client.closed(1)
    assert pauses[0] == 0.5


def test_of_what_forms_while_history_is_away_a_derived_stream_keeps_the_newest() -> None:
    told: list[Event] = []
    deriver = Deriver(FIVE, START, emit=told.append, revise=lambda *_: None)
    for volume in range(1_000):
        deriver.take(BarEvent(bar(0, volume=volume), closed=False))
    deriver.begin([], [])
    assert told == [BarEvent(bar(0, volume=999), closed=False)]


async def test_a_mute_stream_is_found_out_and_begun_anew(make_world: Make) -> None:
    world = make_world([*HISTORY, bar(10, close=50.0)], NOW)
    client = world.client()
    world.subscribe(client)[0].go_live()
    world.says(bar(10, close=50.0), closed=False)
    await client.next("bar")
    async with asyncio.timeout(20):
        while world.plugin.streams < 2:
            # The market goes on, and the stream says nothing of it.
            world.plugin.bars[-1] = bar(10, close=50.0, volume=world.clock.now_ms())
            world.clock.advance(1_000)
            await asyncio.sleep(0.005)
    stale = await client.next("status")
    assert stale["state"] == "stale"
    assert "mute" in stale["message"]
    assert world.service.feeds("test") == {"live": 0, "stale": 1, "down": 0}
    world.says(world.plugin.bars[-1], closed=False)
    assert (await client.next("status"))["state"] == "live"


async def test_a_stream_is_mute_in_real_time_however_fast_its_market_runs(make_world: Make) -> None:
    world = make_world([bar(minute) for minute in range(10_000)], NOW)
    world.plugin.clock = ScaledClock(world.clock, start_ms=NOW, speed=3_600)
    world.subscribe(world.client())[0].go_live()
    for _ in range(25):
        world.clock.advance(1_000)
        await asyncio.sleep(0.005)
    assert world.plugin.streams == 1
    assert world.service.feeds("test") == {"live": 1, "stale": 0, "down": 0}
    async with asyncio.timeout(20):
        while world.plugin.streams < 2:
            world.clock.advance(1_000)
            await asyncio.sleep(0.005)


async def test_a_quiet_market_is_left_alone_and_asked_about_less_and_less(make_world: Make) -> None:
    world = make_world([], NOW)
    client = world.client()
    world.subscribe(client)[0].go_live()
    for _ in range(3_600):
        world.clock.advance(1_000)
        await asyncio.sleep(0.001)
    assert world.plugin.streams == 1
    assert world.service.feeds("test") == {"live": 1, "stale": 0, "down": 0}
    # Beside the question at the end of each minute: 30, 60, 120, 240 … seconds after the last word.
    assert len(world.plugin.calls) - 60 < 25
