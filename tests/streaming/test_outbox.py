from __future__ import annotations

import asyncio
import json
from itertools import count

import ormsgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st
from listening import Sink, payloads
from scripted import INSTRUMENT, MINUTE, bar

from marketd.domain.instrument import Series
from marketd.domain.timeframe import Timeframe
from marketd.metrics import Metrics
from marketd.streaming.broadcast import BroadcastManager
from marketd.streaming.events import BarEvent
from marketd.streaming.messages import Format, Message, event_message
from marketd.streaming.outbox import Outbox

SERIES = Series(INSTRUMENT, MINUTE)
OTHER = Series(INSTRUMENT, Timeframe.parse("5m"))


class Box:
    """An outbox, its sink, and whether the client was given up."""

    def __init__(self, most_bytes: int = 1_000_000, patience_s: float = 60) -> None:
        self.sink = Sink()
        self.overflows = 0
        self.metrics = Metrics()
        self.outbox = Outbox(
            Format.JSON,
            self.sink,
            BroadcastManager(self.metrics, most_channels=1),
            most_bytes=most_bytes,
            patience_s=patience_s,
            overflow=self._overflow,
            metrics=self.metrics,
        )

    def _overflow(self) -> None:
        self.overflows += 1

    def put(self, minute: int, close: float, *, closed: bool, series: Series = SERIES) -> None:
        event = BarEvent(bar(minute, close), closed)
        message = event_message(series, event, "")
        self.outbox.put_news(series, message)


async def test_a_forming_bar_that_waits_gives_way_to_a_newer_one() -> None:
    box = Box()
    box.put(0, 1.0, closed=False)
    box.put(0, 5.0, closed=False, series=OTHER)
    box.put(0, 2.0, closed=False)
    assert [one["bar"][4] for one in await box.sink.take()] == [2.0, 5.0]


async def test_a_closed_bar_never_gives_way_and_keeps_its_place() -> None:
    box = Box()
    box.put(0, 1.0, closed=False)
    box.put(0, 2.0, closed=True)
    box.put(1, 3.0, closed=False)
    box.put(1, 4.0, closed=False)
    box.put(1, 5.0, closed=True)
    assert [(one["bar"][4], one["closed"]) for one in await box.sink.take()] == [
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
        box = Box()
        for index, (series, closed) in enumerate(steps):
            box.put(0, float(index), closed=closed, series=series)
        if not steps:
            return
        messages = await box.sink.take()
        for series in (SERIES, OTHER):
            own = [one for one in messages if one["timeframe"] == str(series.timeframe)]
            closes = [one["bar"][4] for one in own]
            assert closes == sorted(closes)
            wanted = [float(i) for i, (s, closed) in enumerate(steps) if closed and s == series]
            assert [one["bar"][4] for one in own if one["closed"]] == wanted

    asyncio.run(run())


async def test_what_comes_in_one_turn_leaves_in_one_write() -> None:
    box = Box()
    for minute in range(3):
        box.put(minute, 1.0, closed=True)
    await asyncio.sleep(0)
    assert len(box.sink.writes) == 1
    assert len(payloads(box.sink.writes[0])) == 3
    assert box.metrics.stream_messages._value.get() == 3


async def test_while_the_client_does_not_read_nothing_is_written_and_then_all_of_it() -> None:
    box = Box()
    box.sink.fill()
    box.put(0, 1.0, closed=True)
    assert len(await box.sink.take()) == 1
    for minute in range(1, 4):
        box.put(minute, 1.0, closed=True)
        box.put(minute + 1, 2.0, closed=False)
        await asyncio.sleep(0)
    assert box.sink.writes == []
    box.sink.empty()
    told = await box.sink.take()
    assert [one["bar"][0] for one in told if one["closed"]] == [bar(minute)[0] for minute in range(1, 4)]
    box.put(5, 1.0, closed=True)
    assert len(await box.sink.take()) == 1


async def test_what_does_not_fit_overflows_once_and_nothing_more_is_written() -> None:
    box = Box(most_bytes=400)
    box.sink.fill()
    for minute in range(5):
        box.put(minute, 1.0, closed=True)
    assert box.overflows == 1
    box.sink.empty()
    await asyncio.sleep(0)
    assert box.sink.writes == []


async def test_one_message_larger_than_the_bound_passes_alone() -> None:
    box = Box(most_bytes=10)
    box.outbox.put(Message({"type": "snapshot", "bars": [bar(0)] * 3_000}))
    (snapshot,) = await box.sink.take()
    assert len(snapshot["bars"]) == 3_000
    assert box.overflows == 0


async def test_who_sends_in_bulk_takes_turns_and_overflows_nothing() -> None:
    box = Box(most_bytes=2_000)
    page = Message({"type": "snapshot", "bars": [bar(0)] * 30})
    assert 1_000 < len(page.frame(Format.JSON)) < 2_000
    box.sink.fill()
    senders = [asyncio.ensure_future(box.outbox.put_bulk([page])) for _ in range(5)]
    for _ in senders:
        assert len(await box.sink.take()) == 1
        box.sink.admit_one()
    await asyncio.wait_for(asyncio.gather(*senders), 1)
    assert box.overflows == 0


async def test_a_closed_outbox_writes_nothing() -> None:
    box = Box()
    box.put(0, 1.0, closed=True)
    box.outbox.close()
    box.put(1, 1.0, closed=True)
    await asyncio.sleep(0)
    assert box.sink.writes == []
    assert box.overflows == 0


def test_a_message_is_framed_once_a_format() -> None:
    message = Message({"type": "pong", "value": None})
    assert message.frame(Format.JSON) is message.frame(Format.JSON)
    (json_payload,), (msgpack_payload,) = (payloads(message.frame(how)) for how in Format)
    assert json.loads(json_payload) == ormsgpack.unpackb(msgpack_payload)


@pytest.mark.parametrize("length", [0, 125, 126, 65_535, 65_536])
def test_a_frame_of_any_length_is_a_frame(length: int) -> None:
    envelope = len(json.dumps({"x": ""}, separators=(",", ":")))
    message = Message({"x": "a" * max(0, length - envelope)})
    (payload,) = payloads(message.frame(Format.JSON))
    assert len(payload) == max(length, envelope)
    assert json.loads(payload) == message.body


async def test_a_client_that_takes_nothing_for_too_long_is_given_up() -> None:
    box = Box(patience_s=0.05)
    box.sink.fill()
    box.put(0, 1.0, closed=True)
    async with asyncio.timeout(30):
        while not box.overflows:  # noqa: ASYNC110 - an outbox tells nobody else
            await asyncio.sleep(0.01)
    box.put(1, 1.0, closed=True)
    assert (box.overflows, len(box.sink.writes)) == (1, 1)


async def test_a_client_that_takes_something_now_and_then_is_kept() -> None:
    box = Box(patience_s=0.2)
    held = count(1_000, -1)
    box.sink.held = lambda: next(held)  # type: ignore[method-assign]
    box.sink.fill()
    box.put(0, 1.0, closed=True)
    await box.sink.take()
    box.put(1, 1.0, closed=True)
    await asyncio.sleep(0.5)
    assert box.overflows == 0
    box.sink.empty()
    assert len(await box.sink.take()) == 1
