"""Backfills over REST, of a vendor that may turn hostile: all of it, once, whatever happens."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack
from types import SimpleNamespace
from typing import Any

import pytest
from aiohttp import web
from backfilling import PATH, begin, call, ended, fetched_twice, only_from, until
from besieged import START, M, Make, World
from stand_in import SYMBOL, Asked, Vendor, cut, hanging, rows, slow, status, well
from stand_in_plugin import StandInPlugin

from marketd.backfill.gate import LoadGate
from marketd.backfill.job import KIND, Backfill
from marketd.domain.bar import Bar
from marketd.domain.timerange import TimeRange


async def test_it_brings_all_that_is_missing_once_and_says_so(world: World) -> None:
    await world.bars(since=START + 150 * M, before=START + 250 * M)
    told = await ended(world, await begin(world))
    assert (told["state"], told["progress"], told["message"]) == ("done", 1.0, "")
    assert told["new"] == told["bars"] == len(world.truth(0, 600)) - 100
    assert fetched_twice(world) == []
    assert await world.stored() == world.truth(0, 600)
    asked = len(world.vendor.asked)
    assert await world.bars(before=START + 600 * M) == world.truth(0, 600)
    assert len(world.vendor.asked) == asked


class Together:
    """A mood that is slow, and counts how many requests are under way at once."""

    def __init__(self) -> None:
        self.most = 0
        self._now = 0

    async def __call__(self, vendor: Vendor, asked: Asked, request: web.Request) -> web.StreamResponse:
        self._now += 1
        self.most = max(self.most, self._now)
        try:
            return await slow(0.1)(vendor, asked, request)
        finally:
            self._now -= 1


async def test_pieces_of_one_series_come_side_by_side_and_the_newest_first(world: World) -> None:
    world.vendor.mood = together = Together()
    await ended(world, await begin(world))
    assert world.vendor.asked[0].span.end_ms == START + 600 * M
    assert len(world.vendor.asked) == 6
    assert together.most == StandInPlugin.concurrency - 1


async def test_many_backfills_together_use_all_places_but_one(world: World) -> None:
    world.vendor.mood = together = Together()
    for one in [await begin(world, symbol=f"S{n}") for n in range(5)]:
        assert (await ended(world, one))["state"] == "done"
    assert together.most == StandInPlugin.concurrency - 1
    assert fetched_twice(world) == []


async def test_pieces_without_a_bar_are_kept_as_known_and_the_rest_goes_on(
    make: Make, simulated: Sequence[Bar]
) -> None:
    quiet = TimeRange(START + 150 * M, START + 450 * M)
    world = await make([one for one in simulated if not quiet.start_ms <= one[0] < quiet.end_ms])
    told = await ended(world, await begin(world))
    assert (told["state"], told["progress"], told["bars"]) == ("done", 1.0, 300)
    assert await world.stored() == world.truth(0, 600)
    asked = len(world.vendor.asked)
    assert (await ended(world, await begin(world)))["progress"] == 1.0
    assert await world.bars(since=START, before=START + 600 * M) == world.truth(0, 600)
    assert len(world.vendor.asked) == asked


async def test_pauses_after_failures_are_of_any_length_up_to_one_that_doubles(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[tuple[float, float]] = []

    def draw(least: float, most: float) -> float:
        drawn.append((least, most))
        return 0.0

    monkeypatch.setattr("marketd.backfill.round.random", SimpleNamespace(uniform=draw))
    world.vendor.moods = [status(500)] * (4 * 3)
    told = await ended(world, await begin(world, before=START + 100 * M))
    assert told["state"] == "done"
    assert drawn == [(0, 0.5 * 2**attempt) for attempt in range(4)]


async def test_what_passes_is_tried_again_until_it_has_passed(world: World) -> None:
    world.vendor.moods = [status(500)] * 9 + [cut, hanging, status(429, Retry_After="0.1")]
    told = await ended(world, await begin(world))
    assert (told["state"], told["message"]) == ("done", "")
    assert await world.stored() == world.truth(0, 600)


async def test_what_does_not_pass_ends_it_with_the_reason_and_it_can_be_taken_up_again(
    world: World,
) -> None:
    world.vendor.mood = status(403)
    told = await ended(world, await begin(world))
    assert (told["state"], told["message"]) == ("failed", "The vendor answered 403.")
    world.vendor.mood = well
    code, told = await call(world, "POST", f"{PATH}/{told['id']}/resume")
    assert (code, told["message"]) == (200, "")
    assert (await ended(world, told))["state"] == "done"
    assert await world.stored() == world.truth(0, 600)


async def test_it_goes_on_after_a_restart_and_fetches_nothing_twice(world: World) -> None:
    world.vendor.mood = only_from(START + 300 * M)
    told = await begin(world)
    await until(world, told, lambda one: one["progress"] == 0.5)
    await world.stop()
    world.vendor.asked.clear()
    world.vendor.mood = well
    await world.start()
    told = await ended(world, told)
    assert (told["state"], told["new"]) == ("done", len(world.truth(0, 300)))
    assert {one.span.start_ms < START + 300 * M for one in world.vendor.asked} == {True}
    assert await world.stored() == world.truth(0, 600)


async def test_it_pauses_and_stays_paused_until_it_is_resumed(world: World) -> None:
    world.vendor.mood = only_from(START + 300 * M)
    told = await begin(world)
    await until(world, told, lambda one: one["progress"] == 0.5)
    code, paused = await call(world, "POST", f"{PATH}/{told['id']}/pause")
    assert (code, paused["state"]) == (200, "paused")
    await world.restart()
    world.vendor.mood = well
    asked = len(world.vendor.asked)
    assert (await call(world, "GET", f"{PATH}/{told['id']}"))[1]["state"] == "paused"
    await call(world, "POST", f"{PATH}/{told['id']}/resume")
    assert (await ended(world, told))["state"] == "done"
    assert len(world.vendor.asked) > asked
    assert await world.stored() == world.truth(0, 600)


async def test_it_is_cancelled_and_then_forgotten_and_what_it_stored_stays(world: World) -> None:
    world.vendor.mood = only_from(START + 300 * M)
    told = await begin(world)
    await until(world, told, lambda one: one["progress"] == 0.5)
    code, cancelled = await call(world, "DELETE", f"{PATH}/{told['id']}")
    assert (code, cancelled["state"]) == (200, "cancelled")
    assert (await call(world, "GET"))[1]["backfills"] == [cancelled]
    had = await world.stored()
    assert had
    assert (await call(world, "DELETE", f"{PATH}/{told['id']}"))[0] == 200
    assert (await call(world, "GET"))[1] == {"backfills": []}
    await world.restart()
    assert (await call(world, "GET"))[1] == {"backfills": []}
    assert await world.stored() == had


async def test_a_repair_fetches_again_and_says_what_has_changed(world: World) -> None:
    lost_ms, wrong = START + 150 * M, START + 20 * M
    right = list(world.vendor.bars)
    world.vendor.bars = [
        (*one[:5], 7.0) if one[0] == wrong else one for one in right if one[0] != lost_ms
    ]
    await ended(world, await begin(world))
    world.vendor.bars = right
    assert (await ended(world, await begin(world)))["bars"] == 0
    told = await ended(world, await begin(world, repair=True))
    assert (told["state"], told["bars"]) == ("done", len(world.truth(0, 600)))
    assert (told["new"], told["revised"]) == (1, 1)
    assert await world.stored() == world.truth(0, 600)


async def test_a_repair_goes_on_where_it_was_after_a_restart_and_tells_of_all_of_it(
    world: World,
) -> None:
    await ended(world, await begin(world))
    wrong = {START + minute * M for minute in (20, 320, 570)}
    world.vendor.bars = [(*one[:5], 7.0) if one[0] in wrong else one for one in world.vendor.bars]
    answered_ms = START + 600 * M
    world.vendor.mood = only_from(answered_ms)
    told = await begin(world, repair=True)
    for minute in (300, 100, 0):
        before_ms, answered_ms = answered_ms, START + minute * M
        await world.stop()
        world.vendor.mood = only_from(answered_ms)
        world.vendor.asked.clear()
        await world.start()
        jobs = world.daemon.storage.jobs
        while answered_ms not in [  # noqa: ASYNC110 - a store has no event
            Backfill.of(job).repaired_ms for job in await jobs(KIND)
        ]:
            await asyncio.sleep(0.01)
        assert {one.span.start_ms < before_ms for one in world.vendor.asked} == {True}
    told = await ended(world, told)
    assert (told["state"], told["bars"], told["revised"]) == ("done", 600, 3)
    assert await world.stored() == world.truth(0, 600)


async def test_bars_that_cannot_be_right_are_counted_and_stop_nothing(world: World) -> None:
    at_ms = START + 150 * M
    world.vendor.mood = rows(
        lambda page, *_: [(one[0] + 1, *one[1:]) if one[0] == at_ms else one for one in page]
    )
    told = await ended(world, await begin(world))
    assert (told["state"], told["refused"]) == ("done", 1)
    assert len(await world.stored()) == len(world.truth(0, 600)) - 1


async def test_a_question_comes_before_every_backfill(make: Make) -> None:
    world = await make(settings={"requests": 40, "per_ms": 1_000, "burst": 2})
    loop = asyncio.get_running_loop()
    jobs = [await begin(world, symbol=f"S{n}") for n in range(12)]
    await until(world, jobs[0], lambda one: one["progress"] > 0)
    for first in (0, 100, 200):
        begun_s = loop.time()
        since = START + first * M
        assert await world.bars(since=since, before=since + 100 * M) == world.truth(first, first + 100)
        assert loop.time() - begun_s < 0.3
    for job in jobs:
        assert (await ended(world, job))["state"] == "done"
    assert fetched_twice(world) == []
    assert world.vendor.refused == 0


async def test_it_waits_while_the_daemon_is_busy(world: World) -> None:
    gate = world.daemon.gate
    with ExitStack() as waiting:
        for _ in range(20):
            waiting.enter_context(gate.urgent())
        told = await begin(world)
        await until(world, told, lambda one: one["state"] == "running")
        assert not gate.is_open
        assert world.vendor.asked == []
    assert (await ended(world, told))["state"] == "done"


async def test_whoever_watches_it_does_not_hold_it_up(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = world.daemon.gate
    made_way_for: list[str] = []

    def urgent() -> AbstractContextManager[None]:
        made_way_for.append("somebody")
        return LoadGate.urgent(gate)

    monkeypatch.setattr(gate, "urgent", urgent)
    told = await begin(world)
    await ended(world, told)
    for path in (PATH, "/healthz", "/readyz", "/metrics"):
        async with world.session.get(path) as response:
            assert response.status == 200
    assert made_way_for == []
    await world.bars()
    assert made_way_for == ["somebody"]


WRONG: dict[str, tuple[dict[str, Any], int, str]] = {
    "no such provider": ({"provider": "nobody"}, 404, "unknown_provider"),
    "no such market": ({"market": "moon"}, 404, "unknown_market"),
    "no such symbol": ({"symbol": "nothing"}, 404, "unknown_symbol"),
    "a timeframe that cannot be made": ({"timeframe": "1s"}, 501, "unsupported"),
    "no timeframe": ({"timeframe": "soon"}, 400, "invalid_input"),
    "no time": ({"since": "yesterday"}, 400, "invalid_input"),
    "the wrong way round": ({"since": START + M, "before": START}, 400, "invalid_input"),
    "an unknown key": ({"force": True}, 400, "invalid_input"),
    "an unknown parameter": ({"params": {"adjust": "no"}}, 400, "invalid_input"),
    "no truth": ({"repair": "yes"}, 400, "invalid_input"),
}


@pytest.mark.parametrize("name", WRONG)
async def test_what_is_wrong_with_one_is_said_and_nothing_begins(world: World, name: str) -> None:
    fields, code, error = WRONG[name]
    wanted = {
        "market": "crypto",
        "provider": "vendor",
        "symbol": SYMBOL,
        "timeframe": "1m",
        "since": START,
    }
    answered, body = await call(world, "POST", json=wanted | fields)
    assert (answered, body["code"]) == (code, error), body
    if "params" in fields:
        assert body["detail"] == "adjust is not a parameter here; vendor takes venue."
    assert (await call(world, "GET"))[1] == {"backfills": []}


async def test_a_body_that_is_none_is_said_to_be_none(world: World) -> None:
    for sent, kind, code in (
        (b"{", "application/json", 400),
        (b"[]", "application/json", 400),
        (b"\xff", "application/json", 400),
        (b"", "application/json", 400),
        (b"{}", "text/plain", 415),
    ):
        answered, body = await call(world, "POST", data=sent, headers={"Content-Type": kind})
        assert answered == code, body
        assert body["detail"].endswith(".")


async def test_what_is_not_there_is_not_found_and_what_has_ended_cannot_be_paused(world: World) -> None:
    for method, path in (("GET", ""), ("DELETE", ""), ("POST", "/pause"), ("POST", "/resume")):
        code, body = await call(world, method, f"{PATH}/none{path}")
        assert (code, body["code"]) == (404, "not_found")
    told = await ended(world, await begin(world, before=START + M))
    for what in ("pause", "resume"):
        code, body = await call(world, "POST", f"{PATH}/{told['id']}/{what}")
        assert (code, body["code"]) == (409, "conflict")
