"""Clients of the cluster, each of one node, that write down what they are told."""

from __future__ import annotations

import asyncio
import time
from abc import ABC, abstractmethod
from typing import Any

import aiohttp

from marketd.domain.bar import Bar, Tick
from marketd.domain.instrument import Instrument, Series
from marketd.domain.timeframe import Timeframe
from soak.node import Node

BASE = Series(Instrument("crypto", "sim", "BTC/USD"), Timeframe.parse("1s"))
DERIVED = Timeframe.parse("5s")
_NAMES = {"market": "crypto", "provider": "sim"}
# So much is asked for again by who listens to trades and comes back: what came late is in it.
_OVERLAP_MS = 60_000


class Client(ABC):
    """A client of one node, over as many connections as that takes."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.latest_s = 0.0
        """The longest that something took from its time to here, while the node was well."""

    @abstractmethod
    def _stream(self) -> dict[str, Any]:
        """What to subscribe to, and from when on."""

    @abstractmethod
    def _take(self, message: dict[str, Any]) -> None: ...

    async def run(self) -> None:
        """Listens until cancelled."""
        async with aiohttp.ClientSession() as session:
            while True:
                try:
                    if self.node.url:
                        await self._listen(session)
                except (aiohttp.ClientError, OSError):
                    pass  # its node has died
                await asyncio.sleep(0.1)

    async def _listen(self, session: aiohttp.ClientSession) -> None:
        async with session.ws_connect(f"{self.node.url}/api/v1/stream") as socket:
            symbols = [BASE.instrument.symbol]
            command = _NAMES | {"type": "subscribe", "id": "1", "symbols": symbols}
            await socket.send_json(command | self._stream())
            async for frame in socket:
                if frame.type is aiohttp.WSMsgType.TEXT:
                    self._take(frame.json())


class Recorder(Client):
    """Writes down every closed bar."""

    def __init__(self, node: Node, timeframe: Timeframe) -> None:
        super().__init__(node)
        self.timeframe = timeframe
        self.bars: list[Bar] = []

    @property
    def next_ms(self) -> int:
        """The first time of which nothing was told yet."""
        return self.timeframe.end(self.bars[-1][0]) if self.bars else 0

    def _stream(self) -> dict[str, Any]:
        since = {"since": self.next_ms} if self.bars else {}
        return {"timeframe": str(self.timeframe), **since}

    def _take(self, message: dict[str, Any]) -> None:
        match message["type"]:
            case "snapshot":
                assert message["complete"], f"a part of history is missing: {message}"
                self._record(message["bars"])
            case "bar" if message["closed"]:
                assert message["rev"] == 0, f"a bar has changed: {message}"
                self._record([message["bar"]])
                if self.node.is_well:
                    late_s = time.time() - self.timeframe.end(message["bar"][0]) / 1000
                    self.latest_s = max(self.latest_s, late_s)
            case "gap" | "error":
                raise AssertionError(message)

    def _record(self, rows: list[list[Any]]) -> None:
        for row in rows:
            assert row[0] >= self.next_ms, f"{row} was told after {self.bars[-1]}"
            self.bars.append((row[0], *row[1:]))


class TradeRecorder(Client):
    """Writes down every trade."""

    def __init__(self, node: Node) -> None:
        super().__init__(node)
        self.since_ms = int(time.time() * 1000)
        self.trades: set[Tick] = set()
        # What this connection has told; another begins some time before the end of the one before.
        self._told: set[Tick] = set()

    def _stream(self) -> dict[str, Any]:
        self._told = set()
        newest_ms = max((trade[0] for trade in self.trades), default=0)
        return {"channel": "ticks", "since": max(self.since_ms, newest_ms - _OVERLAP_MS)}

    def _take(self, message: dict[str, Any]) -> None:
        match message["type"]:
            case "snapshot" | "tick":
                trades = {(row[0], *row[1:]) for row in message["ticks"]}
                assert len(trades) == len(message["ticks"]), f"a trade was told twice: {message}"
                assert not trades & self._told, f"told again: {trades & self._told}"
                self._told |= trades
                self.trades |= trades
                if self.node.is_well and message["type"] == "tick":
                    self.latest_s = max(self.latest_s, time.time() - message["ticks"][0][0] / 1000)
            case "gap" | "error":
                raise AssertionError(message)
