"""What is published reaches everybody who follows it then: once, in order, in one write a turn."""

from __future__ import annotations

import asyncio
import json
from itertools import count
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from listening import Sink, payloads, turns
from scripted import INSTRUMENT, MINUTE

from marketd.domain.instrument import Series
from marketd.metrics import Metrics
from marketd.streaming import broadcast
from marketd.streaming.broadcast import BroadcastManager, Channel
from marketd.streaming.messages import Format, Message
from marketd.streaming.outbox import Outbox
from marketd.streaming.stream import BarSubscription

SERIES = Series(INSTRUMENT, MINUTE)
CHANNELS, CLIENTS = 2, 3


class Stay:
    """A client's time with a channel: what it has kept, what this turn brought, what it must be told."""

    def __init__(self, outbox: Outbox) -> None:
        self.subscription = BarSubscription(SERIES, outbox)
        self.is_live = False
        self.kept: list[int] = []
        self.new: list[int] = []
        self.due: list[int] = []


class Client:
    """A client with its stays, by channel."""

    def __init__(self, broadcast: BroadcastManager) -> None:
        self.sink = Sink()
        self.outbox = Outbox(
            Format.JSON,
            self.sink,
            broadcast,
            most_bytes=1_000_000,
            patience_s=60,
            overflow=lambda: None,
            metrics=broadcast.metrics,
        )
        self.stays: dict[int, Stay] = {}
        self.due: list[list[int]] = [[] for _ in range(CHANNELS)]
        # Of what was said in the turn in which it leaves it may be told or not.
        self.perhaps: list[list[int]] = [[] for _ in range(CHANNELS)]

    def told(self) -> list[dict[str, Any]]:
        """Every message that was written so far."""
        return [json.loads(payload) for data in self.sink.writes for payload in payloads(data)]


class Stage:
    """Channels with clients, and numbered messages."""

    def __init__(self) -> None:
        self.metrics = Metrics()
        broadcast = BroadcastManager(self.metrics, most_channels=CHANNELS)
        self.channels = [Channel(broadcast) for _ in range(CHANNELS)]
        self.clients = [Client(broadcast) for _ in range(CLIENTS)]
        self._numbers = count()

    async def turn(self) -> None:
        await turns()
        for client in self.clients:
            for channel, stay in client.stays.items():
                client.due[channel] += stay.new
                stay.new = []

    def publish(self, channel: int, *, lasts: bool) -> None:
        number = next(self._numbers)
        message = Message({"channel": channel, "number": number, "lasts": lasts}, lasts=lasts)
        stays = [client.stays[channel] for client in self.clients if channel in client.stays]
        self.channels[channel].publish(message)
        for stay in stays if lasts else ():
            (stay.new if stay.is_live else stay.kept).append(number)

    def join(self, channel: int, client: Client) -> None:
        if channel not in client.stays:
            client.stays[channel] = Stay(client.outbox)
            self.channels[channel].add(client.stays[channel].subscription)

    def go_live(self, channel: int, client: Client) -> None:
        stay = client.stays.get(channel)
        if stay is not None and not stay.is_live:
            stay.is_live = True
            client.due[channel] += stay.kept
            stay.subscription.go_live()

    def all_go_live(self, *channels: int) -> None:
        for client in self.clients:
            for channel in channels:
                self.join(channel, client)
                self.go_live(channel, client)

    def leave(self, channel: int, client: Client) -> None:
        if channel in client.stays:
            stay = client.stays.pop(channel)
            client.perhaps[channel] += stay.new
            self.channels[channel].remove(stay.subscription)

    async def take(self, step: str, channel: int, client: Client) -> None:
        match step:
            case "turn":
                await self.turn()
            case "closed" | "forming":
                self.publish(channel, lasts=step == "closed")
            case "join":
                self.join(channel, client)
            case "live":
                self.go_live(channel, client)
            case "leave":
                self.leave(channel, client)
            case "fill":
                client.sink.fill()
            case "empty":
                client.sink.empty()


STEPS = st.tuples(
    st.sampled_from(["turn", "closed", "forming", "join", "live", "leave", "fill", "empty"]),
    st.integers(0, CHANNELS - 1),
    st.integers(0, CLIENTS - 1),
)


@given(st.lists(STEPS, max_size=80), st.sampled_from([1, 2, 2_000]))
def test_whoever_follows_is_told_what_lasts_once_and_in_order(
    steps: list[tuple[str, int, int]], at_once: int
) -> None:
    async def run() -> None:
        stage = Stage()
        for step, channel, client in steps:
            await stage.take(step, channel, stage.clients[client])
        await stage.turn()
        for one in stage.clients:
            one.sink.empty()
        await stage.turn()
        for one in stage.clients:
            told = one.told()
            for channel in range(CHANNELS):
                own = [message for message in told if message["channel"] == channel]
                numbers = [message["number"] for message in own]
                assert numbers == sorted(set(numbers))
                lasting = {message["number"] for message in own if message["lasts"]}
                due = set(one.due[channel])
                assert due <= lasting <= due | set(one.perhaps[channel])

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(broadcast, "_AT_ONCE", at_once)
        asyncio.run(run())


async def test_more_clients_than_can_be_told_quickly_are_told_in_several_turns(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(broadcast, "_AT_ONCE", 2)
    stage = Stage()
    stage.all_go_live(0)
    when_written: list[int] = []

    def told() -> int:
        return sum(len(client.told()) for client in stage.clients)

    stage.channels[0].publish(Message({"type": "bar"}), lambda: when_written.append(told()))
    await asyncio.sleep(0)
    assert (told(), when_written) == (2, [])
    await stage.turn()
    assert (told(), when_written) == (CLIENTS, [CLIENTS])


async def test_what_several_channels_and_an_answer_say_in_one_turn_leaves_in_one_write_a_client() -> (
    None
):
    stage = Stage()
    stage.all_go_live(*range(CHANNELS))
    for _ in range(3):
        stage.publish(0, lasts=True)
        stage.publish(1, lasts=True)
    stage.clients[0].outbox.put(Message({"type": "pong"}))
    await stage.turn()
    assert [len(client.sink.writes) for client in stage.clients] == [1] * CLIENTS
    assert [len(client.told()) for client in stage.clients] == [7, 6, 6]
    assert stage.metrics.stream_messages._value.get() == 19
    assert stage.metrics.stream_bytes._value.get() == sum(
        len(data) for client in stage.clients for data in client.sink.writes
    )


async def test_what_forms_within_a_turn_is_told_as_it_was_last_and_counted_for_each_client() -> None:
    stage = Stage()
    stage.all_go_live(0)
    for _ in range(3):
        stage.publish(0, lasts=False)
    await stage.turn()
    for client in stage.clients:
        assert [message["number"] for message in client.told()] == [2]
    assert stage.metrics.stream_conflated._value.get() == 2 * CLIENTS


async def test_clients_of_one_format_are_sent_the_very_same_bytes() -> None:
    stage = Stage()
    stage.all_go_live(0)
    for _ in range(2):
        stage.publish(0, lasts=True)
    await stage.turn()
    assert len({id(data) for client in stage.clients for data in client.sink.writes}) == 1
