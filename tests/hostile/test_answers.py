"""Whatever a vendor answers, what is served and stored is right, or it is an error that says so."""

from __future__ import annotations

import csv
import gzip
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from besieged import NOW, START, M, Make, World
from stand_in import Mood, cut, hanging, rows, saying, slow, status, well

from marketd.domain.bar import Bar

# What cannot be right is not asked for again before.
AN_HOUR = 3_600_001

PASSING: dict[str, list[Mood]] = {
    "slow": [slow(0.1)] * 3,
    "a server error": [status(500), well, status(503), status(502)],
    "no answer in time": [hanging],
    "half a body": [cut, well, cut],
    "patience asked for": [status(429, Retry_After="0.1")],
    "patience asked for, no word how long": [status(429), status(429)],
    "half a page that is said to be all": [well, rows(lambda page, *_: page[:50])],
}


@pytest.mark.parametrize("name", PASSING)
async def test_what_passes_by_itself_is_not_seen_by_a_client(world: World, name: str) -> None:
    world.vendor.moods = list(PASSING[name])
    assert await world.bars() == world.truth()
    assert await world.stored() == world.truth()
    assert not world.vendor.moods
    asked = len(world.vendor.asked)
    assert await world.bars() == world.truth()
    assert len(world.vendor.asked) == asked


FAILING: dict[str, tuple[Mood, int, str, int]] = {
    "a server error": (status(500), 502, "provider_failed", 3),
    "a client error": (status(403), 502, "provider_failed", 1),
    "no answer in time": (hanging, 504, "provider_timeout", 3),
    "half a body": (cut, 502, "provider_failed", 3),
    "no JSON": (saying("<html>down</html>"), 502, "provider_failed", 1),
    "nothing": (saying(""), 502, "provider_failed", 1),
    "an object": (saying({"bars": []}), 502, "provider_failed", 1),
    "null": (saying(None), 502, "provider_failed", 1),
    "a text": (saying('"bars"'), 502, "provider_failed", 1),
    "numbers": (saying([1, 2, 3]), 502, "provider_failed", 1),
    "short rows": (rows(lambda page, *_: [row[:5] for row in page]), 502, "provider_failed", 1),
    "prices as text": (rows(lambda page, *_: [[row[0], *map(str, row[1:])] for row in page]), 502,
                       "provider_failed", 1),
    "seconds for milliseconds": (rows(lambda page, *_: [[row[0] // 1000, *row[1:]] for row in page]),
                                 502, "provider_failed", 1),
    "bars of another time": (rows(lambda page, *_: [[row[0] - 400 * M, *row[1:]] for row in page]),
                             502, "provider_failed", 1),
    "every bar inside out": (rows(lambda page, *_: [(r[0], r[1], r[3], r[2] + 1, *r[4:]) for r in page]),
                             502, "provider_failed", 1),
}  # fmt: skip


@pytest.mark.parametrize("name", FAILING)
async def test_what_does_not_pass_is_an_error_and_nothing_of_it_is_kept(world: World, name: str) -> None:
    mood, code, error, calls = FAILING[name]
    world.vendor.mood = mood
    answered, body, _ = await world.ask(before=START + 90 * M)
    assert (answered, body["code"]) == (code, error)
    assert "secret" not in str(body)
    assert "Traceback" not in str(body)
    assert len(world.vendor.asked) == calls
    assert await world.stored() == []
    world.vendor.mood = well
    world.clock.advance(AN_HOUR)
    assert await world.bars(before=START + 90 * M) == world.truth(0, 90)


async def test_a_parameter_comes_to_the_vendor_and_one_that_it_does_not_take_is_refused(
    world: World,
) -> None:
    assert await world.bars(venue="X") == world.truth()
    assert {one.venue for one in world.vendor.asked} == {"X"}
    world.vendor.asked.clear()
    code, body, _ = await world.ask(venu="X")
    assert (code, body["code"], body["field"]) == (400, "invalid_input", "venu")
    assert body["detail"] == "venu is not a parameter here; vendor takes venue."
    assert not world.vendor.asked
    # Without it the bars are others.
    assert await world.bars() == world.truth()
    assert {one.venue for one in world.vendor.asked} == {""}


async def test_live_bars_of_several_parameters_are_told_apart(world: World) -> None:
    command = {
        "type": "subscribe",
        "market": "crypto",
        "provider": "vendor",
        "symbols": ["BTC/USD"],
        "timeframe": "1m",
        "since": START + 590 * M,
    }
    named = [{"venue": "X"}, {"venue": ""}, None]
    async with world.session.ws_connect("/api/v1/stream") as socket:
        for params in named:
            await socket.send_json(command if params is None else command | {"params": params})
        told: dict[str, list[Any]] = {"subscribed": [], "snapshot": []}
        while len(told["snapshot"]) < len(named):
            message = await socket.receive_json(timeout=20)
            if message["type"] in told:
                told[message["type"]] += message.get("streams", [message])
        for messages in told.values():
            assert sorted(map(str, named)) == sorted(str(one.get("params")) for one in messages)


async def test_a_part_that_is_stored_is_served_with_the_gap_while_the_vendor_fails(world: World) -> None:
    await world.bars(before=START + 100 * M)
    world.vendor.mood = status(500)
    code, body, _ = await world.ask()
    assert (code, body["complete"]) == (200, False)
    assert [tuple(row) for row in body["bars"]] == world.truth(0, 100)
    assert body["gaps"] == [{"start": START + 100 * M, "end": START + 300 * M, "reason": "feed_down"}]
    world.vendor.mood = well
    assert await world.bars() == world.truth()


def twice(page: list[Bar], *_: Any) -> list[Any]:
    return [row for row in page for _ in range(2)][: len(page)]


def overlapping(page: list[Bar], vendor: Any, asked: Any) -> list[Any]:
    before = [one for one in vendor.bars if asked.span.start_ms - 3 * M <= one[0] < asked.span.start_ms]
    return [*before[-1:], *page]


def future(page: list[Bar], vendor: Any, asked: Any) -> list[Any]:
    t_ms, *prices = vendor.bars[-1]
    return [*page, (t_ms + M, *prices), (t_ms + 2 * M, *prices)]


HARMLESS: dict[str, Callable[..., list[Any]]] = {
    "newest first": lambda page, *_: page[::-1],
    "shuffled": lambda page, *_: [*page[1::2], *page[::2]],
    "every row twice": twice,
    "overlapping by one": overlapping,
    "more rows than asked for": lambda page, vendor, asked: vendor.truth(asked.span)[:150],
    "whole numbers for prices": lambda page, *_: page,
}


@pytest.mark.parametrize("name", HARMLESS)
async def test_what_can_be_put_right_is_put_right(world: World, name: str) -> None:
    world.vendor.mood = rows(HARMLESS[name])
    assert await world.bars() == world.truth()
    assert await world.stored() == world.truth()


@pytest.mark.parametrize("cap", [1, 7, 30, 99])
async def test_pages_that_are_smaller_than_the_plugin_says_lose_nothing(make: Make, cap: int) -> None:
    world = await make()
    world.vendor.page_limit = cap
    most = 60 if cap == 1 else 300
    assert await world.bars(before=START + most * M) == world.truth(0, most)
    await world.stored()
    assert len(world.vendor.asked) <= most // cap + 2
    assert world.metric("marketd_pages_cut_short_total") == 1


async def test_hours_without_a_trade_are_no_gap_and_asked_for_once(
    make: Make, simulated: list[Bar]
) -> None:
    quiet = [one for one in simulated if not START + 50 * M <= one[0] < START + 280 * M]
    world = await make(quiet)
    assert await world.bars() == world.truth()
    assert len(world.truth()) == 70
    asked = len(world.vendor.asked)
    assert asked <= 2
    assert await world.bars(since=START + 60 * M, before=START + 250 * M) == []
    assert len(world.vendor.asked) == asked
    await world.stored()


WRONG: dict[str, Callable[[Bar], list[Any]]] = {
    "off the grid": lambda one: [(one[0] + 1, *one[1:])],
    "inside out": lambda one: [(one[0], one[1], one[3], one[2] + 1, one[4], one[5])],
    "of negative volume": lambda one: [(*one[:5], -1.0)],
    "told twice, differently": lambda one: [one, (*one[:5], 12345.0)],
}


@pytest.mark.parametrize("name", WRONG)
async def test_a_wrong_bar_is_a_gap_until_the_vendor_mends_it(world: World, name: str) -> None:
    def spoil(page: list[Bar], *_: Any) -> list[Any]:
        return [row for one in page for row in (WRONG[name](one) if one[0] == at_ms else [one])]

    at_ms = START + 150 * M
    world.vendor.mood = rows(spoil)
    code, body, _ = await world.ask()
    assert (code, body["complete"]) == (200, False)
    assert body["gaps"] == [{"start": at_ms, "end": at_ms + M, "reason": "unrecoverable"}]
    assert [tuple(row) for row in body["bars"]] == [one for one in world.truth() if one[0] != at_ms]
    await world.stored()
    world.vendor.mood = well
    asked = len(world.vendor.asked)
    assert (await world.ask())[1]["gaps"] == body["gaps"]
    assert len(world.vendor.asked) == asked
    world.clock.advance(AN_HOUR)
    assert await world.bars() == world.truth()
    assert await world.stored() == world.truth()


async def test_an_answer_to_another_question_proves_nothing_beyond_its_bars(world: World) -> None:
    """The vendor always gives the newest bars, whatever it is asked for."""
    newest = world.vendor.bars[-350:]
    world.vendor.mood = rows(lambda *_: newest[:99])
    code, body, _ = await world.ask()
    assert (code, body["complete"]) == (200, False)
    assert [tuple(row) for row in body["bars"]] == [one for one in newest[:99] if one in world.truth()]
    await world.stored()


async def test_bars_of_the_future_are_neither_served_nor_stored(world: World) -> None:
    world.vendor.mood = rows(future)
    served = await world.bars(before=START + 700 * M)
    assert served == world.vendor.bars
    assert await world.stored() == world.vendor.bars[:-1]


async def test_the_forming_bar_is_served_as_it_is_and_stored_when_it_has_closed(world: World) -> None:
    t_ms, open_, *_ = world.vendor.bars[-1]
    assert t_ms == NOW - 30_000
    for close in (open_ + 1, open_ + 2):
        world.vendor.bars[-1] = (t_ms, open_, open_ + 2, open_, close, 1.0)
        assert (await world.bars(since=None, before=None, limit=5))[-1] == world.vendor.bars[-1]
        assert t_ms not in {one[0] for one in await world.stored()}
        world.clock.advance(1_000)
    world.vendor.bars[-1] = (t_ms, open_, open_ + 9, open_, open_ + 9, 3.0)
    world.clock.advance(60_000)
    assert world.vendor.bars[-1] in await world.bars(since=None, before=None, limit=5)
    assert world.vendor.bars[-1] in await world.stored()


async def test_a_bar_that_is_left_out_in_the_middle_is_believed_as_the_plugin_s_word(
    world: World,
) -> None:
    """No page alone can show it: the answer is what the vendor said, not a guess of ours."""
    lost_ms = START + 150 * M
    world.vendor.mood = rows(
        lambda page, vendor, asked: [one for one in vendor.truth(asked.span) if one[0] != lost_ms][:100]
    )
    assert await world.bars() == [one for one in world.truth() if one[0] != lost_ms]


@pytest.mark.recorded
async def test_recorded_bars_of_a_closed_market_come_through_a_vendor_that_stumbles(
    make: Make, recordings: Path
) -> None:
    with gzip.open(recordings / "bars" / "SPY_1m_2013-10.csv.gz", "rt", encoding="utf-8") as file:
        lines = list(csv.reader(file))[1:1_500]
    bars: list[Bar] = [
        (int(t), float(o), float(h), float(low), float(c), float(v)) for t, o, h, low, c, v in lines
    ]
    world = await make(bars, now_ms=bars[-1][0] + 30_000)
    world.vendor.page_limit = 60
    world.vendor.moods = [status(500), well, cut, well, hanging, status(429, Retry_After="0.05")]
    served = await world.bars(since=bars[0][0], before=bars[-1][0], limit=10_000)
    assert served == bars[:-1]
