"""What the local stand-ins have in common that answer as exchanges do, with the simulated one's values.

`opened` gives a provider that asks one of them. An address holds the exchange's own host: http://127.0.0.1:<port>/api.kraken.com/0/public/OHLC.
"""

from __future__ import annotations

import asyncio
import json
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, ClassVar

from aiohttp import WSCloseCode, WSMsgType, web
from aiohttp.test_utils import TestServer
from marketd_ccxt.plugin import CcxtPlugin
from marketd_ccxt.settings import CcxtCredentials, CcxtSettings

from marketd.clock import ManualClock
from marketd.domain.bar import Bar, Tick
from marketd.domain.resample import resample
from marketd.domain.timeframe import Timeframe
from marketd.domain.timerange import MAX_MS
from marketd.plugins import Clock, PluginContext
from marketd.plugins.sim import SimPlugin

Answer = Callable[[], Awaitable[web.StreamResponse]]

_HISTORIES: dict[str, Any] = {}
BTC = "BTC/USD"
NOW = 1_709_647_230_000  # 2024-03-05T14:00:30Z
HOST = web.ResponseKey("HOST", str)


class Exchange(ABC):
    """An exchange with one pair, BTC/USDT, which is the simulated BTC/USD.

    `faults` are what the next REST requests are answered with; `key` is the one that it takes. From
    `halted_ms` on nothing is traded.
    """

    hollow: ClassVar[Any]  # an answer whose rows hold nothing

    def __init__(self, clock: Clock) -> None:
        self.url = ""
        self.key = "k"
        self.asked: list[str] = []
        self.faults: deque[Answer] = deque()
        self.sockets: list[web.WebSocketResponse] = []
        self.subscribed: asyncio.Queue[str] = asyncio.Queue()
        self.is_mute = False
        self.halted_ms = MAX_MS
        self._clock = clock
        self._sim = SimPlugin(PluginContext("sim", clock, {"seed": 1}))
        self._pushing: list[asyncio.Task[None]] = []

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[Exchange]:
        # Making up its history takes longer than most tests; it is the same for all.
        if not _HISTORIES:
            await self._sim.open()
            _HISTORIES.update(self._sim._histories)
        self._sim._histories = _HISTORIES
        app = web.Application()
        app.router.add_get("/{host}/{path:.*}", self._answer)
        app.router.add_post("/{host}/{path:.*}", self._answer)
        async with TestServer(app) as server:
            self.url = str(server.make_url("/"))
            try:
                yield self
            finally:
                for task in self._pushing:
                    task.cancel()
                await asyncio.gather(*self._pushing, return_exceptions=True)
                await self.hang_up()

    async def hang_up(self) -> None:
        """Closes every socket, as an exchange does that restarts."""
        sockets, self.sockets = self.sockets, []
        for socket in sockets:
            await socket.close(code=WSCloseCode.GOING_AWAY)

    async def deserted(self) -> None:
        """Returns once no socket is open any more."""
        while not all(socket.closed for socket in self.sockets):  # noqa: ASYNC110
            await asyncio.sleep(0.01)

    async def history(
        self, timeframe: str, since: int, before: int, limit: int, symbol: str = BTC
    ) -> list[Bar]:
        """The bars that the exchange has, the forming one included."""
        wanted = Timeframe.parse(timeframe)
        bases = [base for base in self._sim.timeframes if base.tiles(wanted)]
        base = max(bases, key=lambda one: one.nominal_ms)
        many = limit * (wanted.nominal_ms // base.nominal_ms)
        before = min(before, self.halted_ms)
        bars = await self._sim.fetch_ohlcv(symbol, base, wanted.ceil(since), before, many, {})
        return list(bars) if base == wanted else resample(bars, wanted)[:limit]

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        if request.headers.get("Upgrade", "").lower() == "websocket":
            return await self._converse(request)
        self.asked.append(request.path_qs)
        if self.faults:
            return await self.faults.popleft()()
        return await self.rest(request.path.split("/", 2)[2], request)

    async def _converse(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        socket[HOST] = request.path.split("/")[1]
        self.sockets.append(socket)
        async for message in socket:
            if message.type == WSMsgType.TEXT:
                await self.said(socket, json.loads(message.data))
        return socket

    def push(self, socket: web.WebSocketResponse, messages: AsyncIterator[Any]) -> None:
        """Sends `messages` until the socket is closed, in step with the exchange's clock."""

        async def pushing() -> None:
            async for message in messages:
                if socket.closed:
                    return
                if not self.is_mute:
                    await socket.send_json(message)

        self._pushing.append(asyncio.create_task(pushing()))

    async def trades(self, since: int, before: int, limit: int, symbol: str = BTC) -> list[Tick]:
        """The first trades that the exchange has had in a range."""
        return list(await self._sim.fetch_ticks(symbol, since, before, limit))

    async def live_trades(self, symbol: str = BTC) -> AsyncIterator[Tick]:
        async for batch in self._sim.stream_ticks(symbol):
            for tick in batch:
                if tick[0] < self.halted_ms:
                    yield tick

    @abstractmethod
    async def rest(self, path: str, request: web.Request) -> web.StreamResponse:
        """The answer to one request."""

    @abstractmethod
    async def said(self, socket: web.WebSocketResponse, message: dict[str, Any]) -> None:
        """What a client said on a socket."""


def refusing(status: int, body: Any, **headers: str) -> Answer:
    """An answer that says no."""

    async def answer() -> web.StreamResponse:
        text = body if isinstance(body, str) else json.dumps(body)
        return web.Response(status=status, text=text, content_type="application/json", headers=headers)

    return answer


def made(exchange: Exchange, clock: ManualClock, **credentials: str) -> CcxtPlugin:
    settings = {"exchange": type(exchange).__name__.lower(), "base_url": exchange.url}
    loaded = CcxtSettings().load(settings)
    return CcxtPlugin(PluginContext("x", clock, loaded, CcxtCredentials().load(credentials)))


@asynccontextmanager
async def opened(
    exchange: Exchange, clock: ManualClock, **credentials: str
) -> AsyncIterator[CcxtPlugin]:
    plugin = made(exchange, clock, **credentials)
    try:
        await plugin.open()
        yield plugin
    finally:
        await plugin.close()
