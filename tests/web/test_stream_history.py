"""History and live on one socket: every closed bar once, in order, whatever happens in between."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import Any

import pytest
from asking import NOW, START, Api, M
from talking import Connect, Socket

from marketd.clock import ManualClock
from marketd.domain.timeframe import Timeframe
from marketd.streaming.pages import Pages

SECOND = 1000
SYMBOLS = ["BTC/USD", "ETH/USD", "DOGE/BTC"]
TIMEFRAMES = ["1s", "5s", "1m"]

Stream = tuple[str, str]
Bars = dict[Stream, list[list[float]]]


def subscribe(timeframe: str, symbols: Sequence[str] = SYMBOLS, **more: Any) -> dict[str, Any]:
    return {
        "type": "subscribe",
        "id": timeframe,
        "market": "crypto",
        "provider": "sim",
        "symbols": list(symbols),
        "timeframe": timeframe,
        **more,
    }


async def truth(api: Api, since: int, before: int) -> Bars:
    """What REST has of every stream."""
    found: Bars = {}
    for symbol in SYMBOLS:
        for timeframe in TIMEFRAMES:
            answer = await api.get(
                "/api/v1/ohlcv",
                market="crypto",
                provider="sim",
                symbol=symbol,
                timeframe=timeframe,
                since=since,
                before=before,
                limit=10_000,
            )
            assert answer["complete"]
            found[symbol, timeframe] = answer["bars"]
    return found


class Ear:
    """Gathers the closed bars of a socket's streams, and where each stands."""

    def __init__(self, socket: Socket) -> None:
        self.closed: Bars = {}
        self.cursors: dict[Stream, str] = {}
        self.resumed: dict[Stream, bool] = {}
        self._socket = socket

    async def hear(self) -> None:
        message = await self._socket.hear()
        stream = (message.get("symbol", ""), message.get("timeframe", ""))
        match message["type"]:
            case "snapshot":
                assert message["complete"]
                self.closed.setdefault(stream, []).extend(message["bars"])
            case "bar" if message["closed"]:
                assert message["rev"] == 0
                self.closed.setdefault(stream, []).append(message["bar"])
            case "bar":
                # What forms is never older than what has closed.
                last = (self.closed.get(stream) or [[0]])[-1]
                assert message["bar"][0] > last[0]
            case "resumed":
                self.resumed[stream] = message["recovered"]
            case kind:
                assert kind == "subscribed", message
        if "cursor" in message:
            self.cursors[stream] = message["cursor"]

    async def hear_until(self, wanted: Mapping[Stream, Sequence[Any]]) -> None:
        """Listens until every stream has as many closed bars as `wanted`."""
        while any(len(self.closed.get(stream, ())) < len(bars) for stream, bars in wanted.items()):
            await self.hear()


@pytest.mark.parametrize("since", [NOW - 3 * M, NOW - 30 * SECOND, NOW])
async def test_history_and_live_join_without_a_gap_or_a_duplicate(
    connect: Connect, api: Api, clock: ManualClock, since: int
) -> None:
    socket = await connect()
    ear = Ear(socket)
    for timeframe in TIMEFRAMES:
        await socket.say(subscribe(timeframe, since=since))
    # The clock runs while history is still on its way.
    for _ in range(95):
        clock.advance(SECOND)
        await asyncio.sleep(0)
    end = clock.now_ms() - clock.now_ms() % M
    clock.advance(M)
    wanted = await truth(api, since, end)
    await ear.hear_until(wanted)
    for stream, bars in wanted.items():
        assert ear.closed.get(stream, [])[: len(bars)] == bars, stream
    assert wanted["BTC/USD", "1m"]


async def test_without_since_live_begins_with_the_interval_that_forms(
    connect: Connect, api: Api, clock: ManualClock
) -> None:
    socket = await connect()
    ear = Ear(socket)
    for timeframe in TIMEFRAMES:
        assert (await socket.ask(subscribe(timeframe)))["type"] == "subscribed"
    end = NOW - NOW % M + 2 * M
    while clock.now_ms() < end + M:
        clock.advance(SECOND)
        await asyncio.sleep(0)
    wanted = {
        (symbol, timeframe): [bar for bar in bars if bar[0] >= Timeframe.parse(timeframe).floor(NOW)]
        for (symbol, timeframe), bars in (await truth(api, START, end)).items()
    }
    await ear.hear_until(wanted)
    for stream, bars in wanted.items():
        assert ear.closed.get(stream, [])[: len(bars)] == bars, stream


async def test_a_cursor_goes_on_exactly_where_it_stood(
    connect: Connect, api: Api, clock: ManualClock
) -> None:
    since = NOW - 2 * M
    first = await connect()
    ear = Ear(first)
    for timeframe in TIMEFRAMES:
        await first.say(subscribe(timeframe, since=since))
    for _ in range(40):
        clock.advance(SECOND)
        await ear.hear()
    while len(ear.cursors) < len(SYMBOLS) * len(TIMEFRAMES):
        await ear.hear()
    await first.raw.close()
    # It was away for a while, and the streams went on.
    for _ in range(30):
        clock.advance(5 * SECOND)
        await asyncio.sleep(0)
    second = await connect()
    later = Ear(second)
    later.closed = ear.closed
    for (symbol, timeframe), cursor in ear.cursors.items():
        await second.say(subscribe(timeframe, [symbol], resume=cursor))
    for _ in range(65):
        clock.advance(SECOND)
        await asyncio.sleep(0)
    end = clock.now_ms() - clock.now_ms() % M
    clock.advance(M)
    wanted = await truth(api, since, end)
    await later.hear_until(wanted)
    for stream, bars in wanted.items():
        assert later.closed.get(stream, [])[: len(bars)] == bars, stream
    assert later.resumed == dict.fromkeys(wanted, True)


async def test_a_client_whose_history_breaks_is_told_and_may_ask_again(
    socket: Socket, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def breaks(*_: object) -> None:
        raise RuntimeError("it broke")

    command = subscribe("1s", ["BTC/USD"], since=NOW - M)
    with monkeypatch.context() as broken:
        broken.setattr(Pages, "send", breaks)
        await socket.say(command)
        error = await socket.hear_of("error")
    assert (error["id"], error["code"]) == ("1s", "internal")
    assert "it broke" in caplog.text
    await socket.say(command)
    assert (await socket.hear_of("snapshot"))["bars"]
