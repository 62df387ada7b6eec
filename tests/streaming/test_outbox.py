from __future__ import annotations

import asyncio
import json
from typing import Any

import ormsgpack
from hypothesis import given
from hypothesis import strategies as st
from scripted import INSTRUMENT, MINUTE, bar

from marketd.domain.instrument import Series
from marketd.domain.timeframe import Timeframe
from marketd.metrics import Metrics
from marketd.streaming.events import BarEvent
from marketd.streaming.messages import Format, Message, event_message
from marketd.streaming.outbox import Outbox

SERIES = Series(INSTRUMENT, MINUTE)
OTHER = Series(INSTRUMENT, Timeframe.parse("5m"))


def outbox(most_bytes: int = 1_000_000) -> Outbox:
    return Outbox(Format.JSON, most_bytes=most_bytes, metrics=Metrics())


def put(box: Outbox, minute: int, close: float, *, closed: bool, series: Series = SERIES) -> None:
    event = BarEvent(bar(minute, close), closed)
    message = event_message(series, event)
    assert message is not None
    box.put_bar(series, message, closed=closed)


async def taken(box: Outbox) -> list[dict[str, Any]]:
    return [json.loads(frame) for frame in await box.take()]


async def test_a_forming_bar_that_waits_gives_way_to_a_newer_one() -> None:
    box = outbox()
    put(box, 0, 1.0, closed=False)
    put(box, 0, 5.0, closed=False, series=OTHER)
    put(box, 0, 2.0, closed=False)
    assert [one["bar"][4] for one in await taken(box)] == [2.0, 5.0]


async def test_a_closed_bar_never_gives_way_and_keeps_its_place() -> None:
    box = outbox()
    put(box, 0, 1.0, closed=False)
    put(box, 0, 2.0, closed=True)
    put(box, 1, 3.0, closed=False)
    put(box, 1, 4.0, closed=False)
    put(box, 1, 5.0, closed=True)
    assert [(one["bar"][4], one["closed"]) for one in await taken(box)] == [
        (1.0, False),
        (2.0, True),
        (4.0, False),
        (5.0, True),
    ]


@given(st.lists(st.tuples(st.sampled_from([SERIES, OTHER]), st.booleans()), max_size=40))
def test_closed_bars_arrive_in_order_and_no_forming_bar_before_them_is_newer(
    steps: list[tuple[Series, bool]],
) -> None:
    async def run() -> None:
        box = outbox()
        for index, (series, closed) in enumerate(steps):
            put(box, 0, float(index), closed=closed, series=series)
        if not steps:
            return
        messages = await taken(box)
        for series in (SERIES, OTHER):
            own = [one for one in messages if one["timeframe"] == str(series.timeframe)]
            closes = [one["bar"][4] for one in own]
            assert closes == sorted(closes)
            wanted = [float(i) for i, (s, closed) in enumerate(steps) if closed and s == series]
            assert [one["bar"][4] for one in own if one["closed"]] == wanted

    asyncio.run(run())


async def test_what_does_not_fit_overflows_and_nothing_more_is_taken() -> None:
    box = outbox(most_bytes=400)
    for minute in range(5):
        put(box, minute, 1.0, closed=True)
    assert box.overflowed.is_set()
    assert 1 <= len(await box.take()) < 5


async def test_one_message_larger_than_the_bound_passes_alone() -> None:
    box = outbox(most_bytes=10)
    box.put(Message({"type": "snapshot", "bars": [bar(0)] * 100}))
    assert not box.overflowed.is_set()
    assert len(await box.take()) == 1


async def test_who_sends_in_bulk_takes_turns_and_overflows_nothing() -> None:
    box = outbox(most_bytes=2_000)
    page = Message({"type": "snapshot", "bars": [bar(0)] * 30})
    assert 1_000 < len(page.encoded(Format.JSON)) < 2_000
    senders = [asyncio.ensure_future(box.put_bulk([page])) for _ in range(5)]
    for _ in senders:
        assert len(await asyncio.wait_for(box.take(), 1)) == 1
    await asyncio.wait_for(asyncio.gather(*senders), 1)
    assert not box.overflowed.is_set()


def test_a_message_is_encoded_once_a_format() -> None:
    message = Message({"type": "pong", "value": None})
    assert message.encoded(Format.JSON) is message.encoded(Format.JSON)
    assert json.loads(message.encoded(Format.JSON)) == ormsgpack.unpackb(message.encoded(Format.MSGPACK))
