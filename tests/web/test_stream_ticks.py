"""Trades over the WebSocket, of the simulated exchange."""

from __future__ import annotations

import asyncio
from typing import Any

from asking import NOW, Api
from talking import Connect, Socket

from marketd.clock import ManualClock

BTC = {"market": "crypto", "provider": "sim", "symbols": ["BTC/USD"], "channel": "ticks"}
NAMES = {"market": "crypto", "provider": "sim", "symbol": "BTC/USD", "channel": "ticks"}


async def told(socket: Socket, clock: ManualClock, until: int) -> list[list[Any]]:
    """The trades that a stream tells until one is as new as `until`."""
    passing = asyncio.create_task(pass_time(clock))
    ticks: list[list[Any]] = []
    while not ticks or ticks[-1][0] < until:
        message = await socket.hear()
        assert {key: message[key] for key in NAMES} == NAMES
        ticks += message.get("ticks", [])
    passing.cancel()
    return ticks


async def test_history_and_live_are_what_rest_answers(
    connect: Connect, api: Api, clock: ManualClock
) -> None:
    socket = await connect()
    await socket.say({"type": "subscribe", "id": "1", **BTC, "since": NOW - 60_000})
    answer = await socket.hear()
    assert answer["streams"] == [NAMES | {"cursor": answer["streams"][0]["cursor"]}]
    ticks = await told(socket, clock, NOW + 10_000)
    query = {key: NAMES[key] for key in ("market", "provider", "symbol")}
    page = await api.get(
        "/api/v1/ticks", **query, since=NOW - 60_000, before=ticks[-1][0] + 1, limit=10_000
    )
    assert sorted(ticks) == page["ticks"]
    assert page["complete"]
    await socket.say({"type": "unsubscribe", "id": "2", **BTC})
    message = await socket.hear_of("unsubscribed")
    assert message["streams"] == [NAMES]


async def test_bars_of_trades_are_what_rest_answers(
    connect: Connect, api: Api, clock: ManualClock
) -> None:
    socket = await connect()
    names = {"market": "crypto", "provider": "sim", "symbol": "DOGE/BTC", "timeframe": "2t"}
    command = {"market": "crypto", "provider": "sim", "symbols": ["DOGE/BTC"], "timeframe": "2t"}
    await socket.say({"type": "subscribe", "id": "1", **command, "since": NOW - 600_000})
    (stream,) = (await socket.hear())["streams"]
    assert stream == names | {"channel": "bars", "cursor": stream["cursor"]}
    bars: list[Any] = []
    passing = asyncio.create_task(pass_time(clock))
    while len(bars) < 3 or bars[-1][0] < NOW:
        message = await socket.hear()
        assert {key: message[key] for key in names} == names
        bars += message.get("bars", [])
        bars += [message["bar"]] if message.get("closed") else []
    passing.cancel()
    page = await api.get("/api/v1/ohlcv", **names, since=NOW - 600_000, limit=len(bars))
    assert page["bars"] == bars
    params = {"params": {"a": "b"}}
    await socket.refused({"type": "subscribe", "id": "2", **command} | params, "invalid_input")
    await socket.refused({"type": "subscribe", "id": "3", **command}, "conflict")
    await socket.say({"type": "unsubscribe", "id": "4", **command})
    assert (await socket.hear_of("unsubscribed"))["streams"] == [names | {"channel": "bars"}]


async def pass_time(clock: ManualClock) -> None:
    while True:
        clock.advance(250)
        await asyncio.sleep(0.005)


async def test_what_is_for_bars_is_refused(socket: Socket) -> None:
    await socket.say({"type": "subscribe", "id": "1", **BTC, "params": {"a": "b"}})
    assert (await socket.hear())["message"] == "params is for bars, not for ticks."
    odd = {"market": "odd", "provider": "files", "symbols": ["ODD"], "channel": "ticks"}
    await socket.say({"type": "subscribe", "id": "2", **odd})
    assert (await socket.hear())["code"] == "unsupported"
    await socket.say({"type": "subscribe", "id": "3", **BTC})
    await socket.say({"type": "subscribe", "id": "4", **BTC})
    assert (await socket.hear())["type"] == "subscribed"
    assert (await socket.hear())["code"] == "conflict"
