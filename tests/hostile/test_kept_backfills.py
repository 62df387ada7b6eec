"""What `[[backfill]]` keeps filled: from the start on, on a schedule, and no more than that."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from backfilling import HOUR, PATH, all_told, call, kept, until
from besieged import DAY_MS, NOW, START, M, Make, World
from stand_in import status, well

from marketd.config.kept import Since
from marketd.config.settings import Millis
from marketd.domain.bar import Bar
from marketd.domain.errors import ConfigError
from marketd.domain.timeframe import Timeframe
from marketd.domain.timerange import TimeRange


async def settled(world: World) -> dict[str, Any]:
    """The only backfill, once it waits for its next round."""
    (one,) = await all_told(world)
    return await until(world, one, lambda told: told["next"] is not None)


async def until_round(world: World, next_ms: int) -> dict[str, Any]:
    """The only backfill, once its next round is at that time."""
    (one,) = await all_told(world)
    return await until(world, one, lambda told: told["next"] == next_ms)


async def test_it_is_filled_from_the_start_and_shown_as_one_backfill_after_any_restart(
    make: Make,
) -> None:
    world = await make(backfill=(kept(),))
    told = await settled(world)
    assert (told["state"], told["progress"], told["new"]) == ("done", 1.0, len(world.truth(0, 600)))
    assert (told["every_seconds"], told["next"]) == (3_600.0, NOW + HOUR)
    assert await world.stored() == world.truth(0, 600)
    asked = len(world.vendor.asked)
    for _ in range(2):
        await world.restart()
        again = await settled(world)
        assert (again["id"], again["created"]) == (told["id"], told["created"])
    assert len(world.vendor.asked) == asked


async def test_every_symbol_of_every_entry_is_a_backfill_of_its_own(make: Make) -> None:
    world = await make(
        backfill=(kept(symbols=("S0", "S1")), kept(timeframe=Timeframe.parse("5m"), symbols=("S2",)))
    )
    for one in await all_told(world):
        await until(world, one, lambda told: told["next"] is not None)
    assert sorted((one["symbol"], one["timeframe"]) for one in await all_told(world)) == [
        ("S0", "1m"),
        ("S1", "1m"),
        ("S2", "5m"),
    ]
    for symbol in ("S0", "S1", "S2"):
        assert await world.stored(symbol) == world.truth(0, 600)


async def test_what_has_come_since_is_fetched_when_it_is_due_and_not_before(make: Make) -> None:
    world = await make(backfill=(kept(),), now_ms=START + 300 * M + 30_000)
    await settled(world)
    asked = len(world.vendor.asked)
    world.clock.advance(HOUR - 1)
    assert len(world.vendor.asked) == asked
    world.clock.advance(1)
    told = await until_round(world, START + 420 * M + 30_000)
    assert told["new"] == told["bars"] == 60
    assert await world.stored() == world.truth(0, 360)
    assert world.vendor.asked[asked].span == TimeRange(START + 300 * M, START + 360 * M)


async def test_the_newest_is_fetched_again_and_what_has_changed_is_told(make: Make) -> None:
    world = await make(backfill=(kept(repair=Millis(90 * M)),))
    assert (await settled(world))["revised"] == 0
    right = list(world.vendor.bars)
    changed = {START + 580 * M, START + 400 * M}
    world.vendor.bars = [(*one[:5], 7.0) if one[0] in changed else one for one in right]
    asked = len(world.vendor.asked)
    world.clock.advance(HOUR)
    told = await until_round(world, NOW + 2 * HOUR)
    assert (told["state"], told["revised"], told["new"]) == ("done", 1, 1)
    assert {one.span.start_ms >= START + 570 * M for one in world.vendor.asked[asked:]} == {True}


async def test_what_cannot_be_had_is_asked_for_again_for_a_week_and_then_left(
    make: Make, simulated: Sequence[Bar]
) -> None:
    at_ms = START + 150 * M
    inside_out = [(t, o, low, high, *rest) if t == at_ms else (t, o, high, low, *rest)
                  for t, o, high, low, *rest in simulated]  # fmt: skip
    world = await make(inside_out, backfill=(kept(every=Millis(DAY_MS)),))
    assert (await settled(world))["refused"] == 1
    days = []
    for day in range(1, 10):
        asked = len(world.vendor.asked)
        world.clock.advance(DAY_MS)
        told = await until_round(world, NOW + (day + 1) * DAY_MS)
        assert told["state"] == "done"
        days += [day] * any(one.span.start_ms <= at_ms for one in world.vendor.asked[asked:])
    assert days == [1, 2, 3, 4, 5, 6]


async def test_a_failure_is_told_and_the_next_round_tries_again(make: Make) -> None:
    world = await make(backfill=(kept(symbols=("nobody",)), kept(repair=HOUR)))
    other, one = sorted(await all_told(world), key=lambda told: str(told["symbol"]), reverse=True)
    assert (await until(world, other, lambda told: told["next"] is not None))["state"] == "failed"
    await until(world, one, lambda told: told["next"] is not None)
    for mood, state, message in (
        (status(403), "failed", "The vendor answered 403."),
        (well, "done", ""),
    ):
        world.vendor.mood = mood
        world.clock.advance(HOUR)
        next_ms = world.clock.now_ms() + HOUR
        told = await until(world, one, lambda told, at=next_ms: told["next"] == at)
        assert (told["state"], told["message"]) == (state, message)


async def test_it_can_be_paused_over_a_restart_but_not_removed(make: Make) -> None:
    world = await make(backfill=(kept(),))
    told = await settled(world)
    path = f"{PATH}/{told['id']}"
    code, problem = await call(world, "DELETE", path)
    assert (code, problem["code"]) == (409, "conflict")
    code, paused = await call(world, "POST", f"{path}/pause")
    assert (code, paused["state"], paused["next"]) == (200, "paused", None)
    await world.restart()
    world.clock.advance(2 * HOUR)
    (told,) = await all_told(world)
    assert (told["state"], told["next"]) == ("paused", None)
    assert (await call(world, "POST", f"{path}/resume"))[0] == 200
    assert (await settled(world))["state"] == "done"


async def test_what_is_taken_out_of_the_configuration_is_gone_and_its_bars_stay(make: Make) -> None:
    world = await make(backfill=(kept(),))
    await settled(world)
    world.config = replace(world.config, backfill=())
    await world.restart()
    assert await all_told(world) == []
    assert await world.stored() == world.truth(0, 600)


async def test_it_begins_so_long_before_the_present_or_with_what_the_provider_has(make: Make) -> None:
    world = await make(backfill=(kept(since=Since(ago_ms=Millis(100 * M)), params=(("venue", "X"),)),))
    told = await settled(world)
    assert (told["since"], told["before"], told["bars"]) == (NOW - 100 * M, NOW, 100)
    assert {one.venue for one in world.vendor.asked} == {"X"}


WRONG = {
    "provider": ({"provider": "vendro"}, "there is no provider vendro; did you mean vendor?"),
    "params": ({"params": (("adjust", "no"),)}, "adjust is not a parameter here; vendor takes venue."),
}


@pytest.mark.parametrize("key", WRONG)
async def test_what_cannot_be_kept_stops_the_start(make: Make, key: str) -> None:
    changed, why = WRONG[key]
    with pytest.raises(ConfigError) as raised:
        await make(backfill=(kept(), kept(symbols=("S1",), **changed)))
    assert raised.value.message == f"[[backfill]] 2, {key}: {why}"
