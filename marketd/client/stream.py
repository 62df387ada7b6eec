"""The stream as one endless sequence of events, over as many connections as that takes."""

from __future__ import annotations

import asyncio
import random
from abc import ABC, abstractmethod
from collections import Counter, deque
from collections.abc import AsyncGenerator, Iterator, Mapping, Sequence
from contextlib import aclosing
from typing import Any, Generic, TypeVar

import aiohttp
import orjson

from marketd.client.answers import (
    BarUpdate,
    Gap,
    Revised,
    Snapshot,
    Status,
    TickSnapshot,
    TickUpdate,
    bars_of,
    gap_of,
    ticks_of,
)
from marketd.client.errors import MarketdClientError, failure
from marketd.domain.bar import Tick
from marketd.domain.timeframe import Timeframe

# What a stream is of.
E = TypeVar("E", covariant=True)

# So many trades of a symbol are known again after a lost connection.
_TRADES_KEPT = 10_000
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


class Following(ABC, Generic[E]):
    """What one stream is of, and how far it has been told."""

    def __init__(self, symbols: Sequence[str], names: Mapping[str, Any], *, since: str | None) -> None:
        self._symbols = symbols
        self._names = names
        self._since = since
        self._state = "new"
        # For each symbol the cursor that came last.
        self._cursors: dict[str, str] = {}

    def commands(self) -> Iterator[str]:
        """What to say on a new connection: a subscription for each symbol, from where it stands."""
        for number, symbol in enumerate(self._symbols):
            command = {"type": "subscribe", "id": str(number), **self._names, "symbols": [symbol]}
            yield orjson.dumps({**command, **self._place(symbol)}).decode()

    def told(self, message: Mapping[str, Any]) -> Iterator[E | Gap | Status]:
        """The news in a message of the daemon; an error in it is raised."""
        match message["type"]:
            case "subscribed":
                if self._state == "disconnected":
                    yield Status("", "connected", "")
                self._state = "connected"
                self._joined(message["streams"])
            case "gap":
                yield gap_of(message["symbol"], message)
            case "status":
                yield Status(message["symbol"], message["state"], message["message"])
            case "error":
                raise MarketdClientError(None, message["code"], message["message"])
            case _:
                if "cursor" in message:
                    self._cursors[message["symbol"]] = message["cursor"]
                yield from self._news(message)

    def lost(self, error: MarketdClientError) -> Iterator[Status]:
        """The news that the connection has ended; `error` is raised if that will not pass."""
        if self._state == "new" or error.code not in _PASSING:
            raise error
        if self._state == "connected":
            yield Status("", "disconnected", error.message)
        self._state = "disconnected"

    def _place(self, symbol: str) -> Mapping[str, Any]:
        """Where a subscription is to begin: nothing, `since` or `resume`."""
        if symbol in self._cursors:
            return {"resume": self._cursors[symbol]}
        return {} if self._since is None else {"since": self._since}

    @abstractmethod
    def _news(self, message: Mapping[str, Any]) -> Iterator[E | Status]:
        """What a message says of bars or trades."""

    def _joined(self, streams: Sequence[Mapping[str, Any]]) -> None:
        """Takes where the streams begin."""
        for stream in streams:
            if self._since is None:
                self._cursors.setdefault(stream["symbol"], stream["cursor"])


class FollowingBars(Following[Snapshot | BarUpdate | Revised]):
    """The bars of one timeframe; one that was told as closed is told again only as revised."""

    def __init__(
        self, symbols: Sequence[str], names: Mapping[str, Any], *, timeframe: str, since: str | None
    ) -> None:
        super().__init__(symbols, {**names, "timeframe": timeframe}, since=since)
        self._timeframe = timeframe
        # For each symbol the open time of the first bar that has not been told as closed.
        self._next_ms: dict[str, int] = {}

    def _news(self, message: Mapping[str, Any]) -> Iterator[Snapshot | BarUpdate | Revised | Status]:
        match message["type"]:
            case "snapshot":
                symbol = message["symbol"]
                bars = [bar for bar in bars_of(message["bars"]) if self._is_new(symbol, bar[0])]
                if bars:
                    self._advance(symbol, bars[-1][0])
                yield Snapshot(symbol, bars, message["complete"])
            case "bar":
                update = BarUpdate(
                    message["symbol"], bars_of([message["bar"]])[0], message["closed"], message["rev"]
                )
                if update.rev or self._is_new(update.symbol, update.bar[0]):
                    self._pass(update)
                    yield update
            case "revised":
                bars = bars_of(message["bars"])
                if bars:
                    self._advance(message["symbol"], bars[-1][0])
                yield Revised(message["symbol"], message["start"], message["end"], bars)
            case "resumed" if not message["recovered"]:
                yield Status(message["symbol"], "unrecovered", _UNRECOVERED)

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


class FollowingTicks(Following[TickSnapshot | TickUpdate]):
    """Trades, which go on by the cursor that came last: one that is told late is told, too."""

    def __init__(self, symbols: Sequence[str], names: Mapping[str, Any], *, since: str | None) -> None:
        super().__init__(symbols, {**names, "channel": "ticks"}, since=since)
        # For each symbol the trades that were told last, and those of them that may come again.
        self._told: dict[str, deque[Tick]] = {symbol: deque(maxlen=_TRADES_KEPT) for symbol in symbols}
        self._again: dict[str, Counter[Tick]] = {}

    def _place(self, symbol: str) -> Mapping[str, Any]:
        if symbol in self._cursors:
            self._again[symbol] = Counter(self._told[symbol])
        return super()._place(symbol)

    def _news(self, message: Mapping[str, Any]) -> Iterator[TickSnapshot | TickUpdate | Status]:
        symbol = message["symbol"]
        match message["type"]:
            case "snapshot":
                ticks = self._new(symbol, ticks_of(message["ticks"]))
                yield TickSnapshot(symbol, ticks, message["complete"])
            case "tick":
                if ticks := self._new(symbol, ticks_of(message["ticks"])):
                    yield TickUpdate(symbol, ticks)
            case "resumed":
                # All that is repeated comes before.
                self._again.pop(symbol, None)

    def _new(self, symbol: str, ticks: list[Tick]) -> list[Tick]:
        """Without those that a connection before has told: a cursor may stand before some of them."""
        again = self._again.get(symbol, Counter())
        new: list[Tick] = []
        for tick in ticks:
            if again[tick]:
                again[tick] -= 1
            else:
                new.append(tick)
        self._told[symbol] += new
        return new


async def follow(
    session: aiohttp.ClientSession, url: str, following: Following[E]
) -> AsyncGenerator[E | Gap | Status, None]:
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
    session: aiohttp.ClientSession, url: str, following: Following[E]
) -> AsyncGenerator[E | Gap | Status, None]:
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
