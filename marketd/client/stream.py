"""The stream as one endless sequence of events, over as many connections as that takes."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import aclosing
from typing import Any

import aiohttp
import orjson

from marketd.client.answers import BarUpdate, Revised, Snapshot, Status, StreamEvent, bars_of, gap_of
from marketd.client.errors import MarketdClientError, failure
from marketd.domain.timeframe import Timeframe

_HEARTBEAT_S = 20.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.2, 10.0
# What passes by itself, once a subscription has been accepted.
_PASSING = {
    "not_marketd",  # a proxy before a daemon that is being restarted
    "not_ready",
    "provider_failed",
    "provider_timeout",
    "rate_limited",
    "slow_consumer",
    "storage_failed",
    "timeout",
    "unreachable",
}

_UNRECOVERED = "Bars told before the connection was lost may have been revised since."


class Following:
    """What one stream is of, and how far it has been told."""

    def __init__(
        self,
        market: str,
        provider: str,
        symbols: Sequence[str],
        timeframe: str,
        *,
        since: str | None,
        params: Mapping[str, str],
    ) -> None:
        self._names = {"market": market, "provider": provider, "timeframe": timeframe}
        self._symbols = symbols
        self._timeframe = timeframe
        self._since = since
        self._params = params
        self._state = "new"
        # For each symbol the open time of the first bar that has not been told as closed, and the last
        # cursor that came.
        self._next_ms: dict[str, int] = {}
        self._cursors: dict[str, str] = {}

    def commands(self) -> Iterator[str]:
        """What to say on a new connection: a subscription for each symbol, from where it stands."""
        for number, symbol in enumerate(self._symbols):
            command: dict[str, Any] = {
                "type": "subscribe",
                "id": str(number),
                **self._names,
                "symbols": [symbol],
                "params": self._params,
            }
            if symbol in self._cursors:
                command["resume"] = self._cursors[symbol]
            elif self._since is not None:
                command["since"] = self._since
            yield orjson.dumps(command).decode()

    def told(self, message: Mapping[str, Any]) -> Iterator[StreamEvent]:
        """The news in a message of the daemon; an error in it is raised."""
        match message["type"]:
            case "subscribed":
                if self._state == "disconnected":
                    yield Status("", "connected", "")
                self._state = "connected"
                if self._since is None:
                    for stream in message["streams"]:
                        self._cursors.setdefault(stream["symbol"], stream["cursor"])
            case "snapshot":
                symbol = message["symbol"]
                self._cursors[symbol] = message["cursor"]
                bars = [bar for bar in bars_of(message["bars"]) if self._is_new(symbol, bar[0])]
                if bars:
                    self._advance(symbol, bars[-1][0])
                yield Snapshot(symbol, bars, message["complete"])
            case "bar":
                self._cursors[message["symbol"]] = message["cursor"]
                update = BarUpdate(
                    message["symbol"], bars_of([message["bar"]])[0], message["closed"], message["rev"]
                )
                if update.rev or self._is_new(update.symbol, update.bar[0]):
                    self._pass(update)
                    yield update
            case "revised":
                bars = bars_of(message["bars"])
                yield Revised(message["symbol"], message["start"], message["end"], bars)
            case "gap":
                yield gap_of(message["symbol"], message)
            case "status":
                yield Status(message["symbol"], message["state"], message["message"])
            case "resumed" if not message["recovered"]:
                yield Status(message["symbol"], "unrecovered", _UNRECOVERED)
            case "error":
                raise MarketdClientError(None, message["code"], message["message"])

    def lost(self, error: MarketdClientError) -> Iterator[Status]:
        """The news that the connection has ended; `error` is raised if that will not pass."""
        if self._state == "new" or error.code not in _PASSING:
            raise error
        if self._state == "connected":
            yield Status("", "disconnected", error.message)
        self._state = "disconnected"

    def _is_new(self, symbol: str, t_ms: int) -> bool:
        return t_ms >= self._next_ms.get(symbol, t_ms)

    def _pass(self, update: BarUpdate) -> None:
        if update.closed and not update.rev:
            self._advance(update.symbol, update.bar[0])
        elif not update.closed:
            self._next_ms.setdefault(update.symbol, update.bar[0])

    def _advance(self, symbol: str, closed_ms: int) -> None:
        if self._timeframe[-1:] in ("t", "v"):
            # When a bar of trades ends, the next one tells.
            self._next_ms[symbol] = closed_ms + 1
        else:
            self._next_ms[symbol] = Timeframe.parse(self._timeframe).end(closed_ms)


async def follow(
    session: aiohttp.ClientSession, url: str, following: Following
) -> AsyncGenerator[StreamEvent, None]:
    """The events of `following` without an end; see MarketdClient.stream."""
    loop = asyncio.get_running_loop()
    pause_s = _FIRST_PAUSE_S
    while True:
        began_s = loop.time()
        try:
            async with aclosing(_connection(session, url, following)) as events:
                async for event in events:
                    yield event
            error = MarketdClientError(None, "unreachable", f"The daemon at {url} has gone away.")
        except MarketdClientError as raised:
            error = raised
        for news in following.lost(error):
            yield news
        if loop.time() - began_s > _LONGEST_PAUSE_S:
            pause_s = _FIRST_PAUSE_S
        await asyncio.sleep(random.uniform(pause_s / 2, pause_s))  # noqa: S311 - jitter
        pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)


async def _connection(
    session: aiohttp.ClientSession, url: str, following: Following
) -> AsyncGenerator[StreamEvent, None]:
    """The events of one connection, which ends when it is lost."""
    try:
        async with session.ws_connect(f"{url}/api/v1/stream", heartbeat=_HEARTBEAT_S) as socket:
            for command in following.commands():
                await socket.send_str(command)
            async for frame in socket:
                if frame.type is not aiohttp.WSMsgType.TEXT:
                    return
                for event in following.told(orjson.loads(frame.data)):
                    yield event
    except (aiohttp.ClientError, OSError) as error:
        raise failure(url, error) from error
