"""A local stand-in that answers as Alpaca does, with the simulated exchange's values.

An address holds Alpaca's own host: http://127.0.0.1:<port>/data.alpaca.markets/v2/stocks/bars.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from datetime import UTC, date, datetime, timedelta
from functools import lru_cache
from typing import Any

import msgpack
from aiohttp import WSCloseCode, WSMsgType, web
from aiohttp.test_utils import TestServer
from marketd_alpaca.plugin import AlpacaPlugin

from marketd.domain.bar import Bar, Tick
from marketd.domain.instant import epoch_ms
from marketd.domain.resample import resample
from marketd.domain.timeframe import Timeframe
from marketd.plugins import Clock, PluginContext
from marketd.plugins.sim import SimPlugin
from marketd.plugins.sim.calendar import early_closes, holidays
from marketd.plugins.sim.listings import listings

KEY, SECRET = "PK-KEY", "sk-secret"
NOW = 1_709_650_830_000  # 2024-03-05T15:00:30Z, a Tuesday, 10:00:30 in New York
CONTRACT = "SPY240419C00500000"

Opened = Callable[..., AbstractAsyncContextManager[AlpacaPlugin]]
Answer = Callable[[], Awaitable[web.StreamResponse]]
Key = tuple[str, str]

MINUTE, HOUR = Timeframe.parse("1m"), Timeframe.parse("1h")
_KINDS = {"bars": "b", "updatedBars": "u", "trades": "t"}
_ID = "904837e3-3b76-47ec-b432-046db621571b"
_HISTORIES: dict[str, Any] = {}


class Alpaca:
    """Stocks and crypto are those of the simulated exchange, and a contract has the bars of its stock.

    `faults` are what the next requests are answered with; `updates` what became of trades later, by
    their ids; `plan` is the most symbols of a stream, `refusal` the code that a stream is answered with
    instead of being let in, `page` the most rows of an answer. An account may have one socket to each
    stream.
    """

    def __init__(self, clock: Clock) -> None:
        self.url = ""
        self.clock = clock
        self.asked: list[str] = []
        self.faults: deque[Answer] = deque()
        self.updates: dict[str, str] = {}
        self.page = 10_000
        self.plan = 1_000
        self.refusal = 0
        self.handshakes = 0
        self.is_mute = False
        self.sockets: list[web.WebSocketResponse] = []
        self.subscriptions: dict[web.WebSocketResponse, set[Key]] = {}
        self._paths: dict[web.WebSocketResponse, str] = {}
        self._packing: set[web.WebSocketResponse] = set()
        self._sim = SimPlugin(PluginContext("sim", clock, {"seed": 1}))
        self._live: dict[Key, asyncio.Task[None]] = {}

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[Alpaca]:
        # Making up its history takes longer than most tests; it is the same for all.
        if not _HISTORIES:
            await self._sim.open()
            _HISTORIES.update(self._sim._histories)
        self._sim._histories = _HISTORIES
        app = web.Application()
        app.router.add_get("/{host}/{path:.*}", self._answer)
        async with TestServer(app) as server:
            self.url = str(server.make_url("/"))
            try:
                yield self
            finally:
                for task in self._live.values():
                    task.cancel()
                await asyncio.gather(*self._live.values(), return_exceptions=True)
                await self.hang_up()

    async def hang_up(self) -> None:
        """Closes every socket, as a vendor does that restarts."""
        sockets, self.sockets = self.sockets, []
        self.subscriptions.clear()
        for socket in sockets:
            await socket.close(code=WSCloseCode.GOING_AWAY)

    async def subscribed(self, channel: str, symbol: str) -> None:
        """Returns once somebody follows this."""
        while not self._is_followed(channel, symbol):  # noqa: ASYNC110
            await asyncio.sleep(0.005)

    async def forsaken(self, channel: str, symbol: str) -> None:
        """Returns once nobody follows this any more."""
        while self._is_followed(channel, symbol):  # noqa: ASYNC110
            await asyncio.sleep(0.005)

    def _is_followed(self, channel: str, symbol: str) -> bool:
        return any((channel, symbol) in keys for keys in self.subscriptions.values())

    async def deserted(self) -> None:
        """Returns once no socket is open any more."""
        while self.sockets:  # noqa: ASYNC110
            await asyncio.sleep(0.005)

    async def say(self, channel: str, symbol: str, *rows: dict[str, Any]) -> None:
        """One frame with `rows`, to all who follow."""
        messages = [{"T": _KINDS[channel], "S": symbol, **row} for row in rows]
        for socket, keys in list(self.subscriptions.items()):
            if (channel, symbol) in keys and not socket.closed and not self.is_mute:
                await self._tell(socket, *messages)

    async def fail(self, code: int) -> None:
        """Tells every client an error that nobody asked for."""
        for socket in self.sockets:
            await self._tell(socket, {"T": "error", "code": code, "msg": "as the test wants it"})

    async def history(
        self, symbol: str, timeframe: Timeframe, since: int, before: int, limit: int = 10_000
    ) -> list[Bar]:
        """The bars that Alpaca has: closed minutes, and of an hour what has closed so far."""
        symbol = "SPY" if symbol == CONTRACT else symbol
        end_ms = min(timeframe.ceil(before), MINUTE.floor(self.clock.now_ms()))
        many = limit * (timeframe.nominal_ms // MINUTE.nominal_ms)
        minutes = await self._sim.fetch_ohlcv(symbol, MINUTE, timeframe.ceil(since), end_ms, many, {})
        return list(minutes if timeframe == MINUTE else resample(minutes, timeframe))[:limit]

    async def trades(self, symbol: str, since: int, before: int, limit: int = 10_000) -> list[Tick]:
        """The trades that Alpaca has. It tells whose they were of crypto alone."""
        listed = "SPY" if symbol == CONTRACT else symbol
        ticks = await self._sim.fetch_ticks(listed, since, before, limit)
        return [(t, p, s, side if "/" in symbol else "", i) for t, p, s, side, i in ticks]

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        if request.headers.get("Upgrade", "").lower() == "websocket":
            return await self._converse(request)
        self.asked.append(request.path_qs)
        if not self._knows(request):
            return web.json_response({"message": "unauthorized."}, status=401)
        if self.faults:
            return await self.faults.popleft()()
        host, path = request.match_info["host"], request.match_info["path"]
        if "stocks/bars" in path and request.query.get("feed") == "otc":
            refused = {"message": "subscription does not permit querying OTC data"}
            return web.json_response(refused, status=403)
        if host.startswith("data."):
            return await self._data(path, request.query)
        return self._trading(path.partition("/")[2], request.query)

    def _knows(self, request: web.Request) -> bool:
        if "sandbox" in request.path:
            pair = base64.b64encode(f"{KEY}:{SECRET}".encode()).decode()
            return request.headers.get("Authorization") == f"Basic {pair}"
        told = request.headers.get("APCA-API-KEY-ID"), request.headers.get("APCA-API-SECRET-KEY")
        return told == (KEY, SECRET)

    async def _data(self, path: str, query: Any) -> web.StreamResponse:
        symbol = query["symbols"]
        if path.endswith(("bars/latest", "latest/bars")):
            now_ms = self.clock.now_ms()
            bars = await self.history(symbol, MINUTE, now_ms - 4 * 86_400_000, now_ms)
            return web.json_response({"bars": {symbol: row_of(bars[-1])} if bars else {}})
        since, skipped = map(int, query.get("page_token", f"{epoch_ms(query['start'])}/0").split("/"))
        limit = min(int(query.get("limit", 1_000)), self.page)
        before = epoch_ms(query["end"]) + 1 if "end" in query else self.clock.now_ms()
        kind = path.rpartition("/")[2]
        rows: list[dict[str, Any]]
        if kind == "trades":
            found: list[Any] = await self.trades(symbol, since, before, skipped + limit + 1)
            rows = [trade_of(symbol, tick) | self._update_of(tick) for tick in found]
        else:
            timeframe = {"1Min": MINUTE, "1Hour": HOUR}[query["timeframe"]]
            found = await self.history(symbol, timeframe, since, before, skipped + limit + 1)
            rows = [row_of(bar, 0.5 if query.get("adjustment") == "split" else 1.0) for bar in found]
        # A page may end within a millisecond: its token says how much of that has been told.
        rows, more = rows[skipped : skipped + limit], found[skipped + limit :]
        token = None
        if more:
            same = [one for one in found[: skipped + limit] if one[0] == more[0][0]]
            token = f"{more[0][0]}/{len(same)}"
        return web.json_response({kind: {symbol: rows} if rows else {}, "next_page_token": token})

    def _update_of(self, tick: Tick) -> dict[str, str]:
        return {"u": self.updates[tick[4]]} if tick[4] in self.updates else {}

    def _trading(self, path: str, query: Any) -> web.StreamResponse:
        match path:
            case "assets":
                return web.json_response(self._assets(query["asset_class"]))
            case "calendar":
                return web.json_response(calendar(query["start"], query["end"]))
            case "options/contracts":
                return web.json_response(self._contracts(query))
        return web.json_response({"message": f"unforeseen {path}"}, status=404)

    def _assets(self, asset_class: str) -> list[dict[str, Any]]:
        traits = ("tradable", "marginable", "shortable", "easy_to_borrow", "fractionable")
        common = {"id": _ID, "status": "active", **dict.fromkeys(traits, True)}
        exchanges = {"crypto": "CRYPTO", "us_equity": "NASDAQ"}
        listed = [(one.market, exchanges[one.market], one.symbol, one.name) for one in listings()]
        listed.append(("us_equity", "OTC", "PINK", "Pink"))
        names = ("class", "exchange", "symbol", "name")
        return [common | dict(zip(names, one, strict=True)) for one in listed if one[0] == asset_class]

    def _contracts(self, query: Any) -> dict[str, Any]:
        """Two pages, one contract each."""
        page = int(query.get("page_token", 0))
        symbol = (CONTRACT, CONTRACT.replace("C", "P"))[page]
        row = {"id": _ID, "symbol": symbol, "name": f"SPY {page}", "underlying_symbol": "SPY"}
        row |= {"underlying_asset_id": _ID, "root_symbol": "SPY", "expiration_date": "2024-04-19"}
        row |= {"type": ("call", "put")[page], "style": "american", "strike_price": "500", "size": "100"}
        row |= {"status": "active", "tradable": True}
        rows = [row] if query["underlying_symbols"] == "SPY" else []
        return {"option_contracts": rows, "next_page_token": None if page or not rows else "1"}

    async def _converse(self, request: web.Request) -> web.WebSocketResponse:
        socket = web.WebSocketResponse()
        await socket.prepare(request)
        self.handshakes += 1
        if request.content_type == "application/msgpack":
            self._packing.add(socket)
        await self._tell(socket, {"T": "success", "msg": "connected"})
        try:
            async for message in socket:
                if message.type in (WSMsgType.TEXT, WSMsgType.BINARY):
                    unpack = msgpack.unpackb if socket in self._packing else json.loads
                    await self._said(socket, request.path, unpack(message.data))
        finally:
            self.subscriptions.pop(socket, None)
            if socket in self.sockets:
                self.sockets.remove(socket)
        return socket

    async def _said(self, socket: web.WebSocketResponse, path: str, said: dict[str, Any]) -> None:
        match said.get("action"):
            case "auth":
                if code := self._admission(path, said):
                    await self._tell(socket, {"T": "error", "code": code, "msg": "as Alpaca words it"})
                    await socket.close()
                    return
                self.sockets.append(socket)
                self._paths[socket] = path
                self.subscriptions[socket] = set()
                await self._tell(socket, {"T": "success", "msg": "authenticated"})
            case "subscribe":
                wanted = self.subscriptions[socket] | keys_of(said)
                if len({symbol for _, symbol in wanted}) > self.plan:
                    refused = {"T": "error", "code": 405, "msg": "symbol limit exceeded"}
                    await self._tell(socket, refused)
                else:
                    await self._subscribe(socket, wanted)
            case "unsubscribe":
                await self._subscribe(socket, self.subscriptions[socket] - keys_of(said))

    async def _tell(self, socket: web.WebSocketResponse, *messages: dict[str, Any]) -> None:
        """In JSON, or in MessagePack, with its own kind of time, to a client that wants that."""
        if socket not in self._packing:
            return await socket.send_json(messages)

        def packed(told: dict[str, Any]) -> dict[str, Any]:
            if "t" not in told:
                return told
            return told | {"t": msgpack.Timestamp.from_unix_nano(epoch_ms(told["t"]) * 1_000_000)}

        return await socket.send_bytes(msgpack.packb([*map(packed, messages)]))

    def _admission(self, path: str, said: dict[str, Any]) -> int:
        if (said["key"], said["secret"]) != (KEY, SECRET):
            return 402
        if path in (self._paths[other] for other in self.sockets):
            return 406
        return self.refusal

    async def _subscribe(self, socket: web.WebSocketResponse, keys: set[Key]) -> None:
        told: dict[str, list[str]] = {channel: [] for channel in _KINDS}
        for channel, symbol in sorted(keys):
            told[channel].append(symbol)
        if not self.is_mute:
            self.subscriptions[socket] = keys
            await self._tell(socket, {"T": "subscription", **told})
        for channel, symbol in keys - self._live.keys():
            if channel != "updatedBars":
                telling = self._tell_bars if channel == "bars" else self._tell_trades
                self._live[channel, symbol] = asyncio.create_task(telling(symbol))

    async def _tell_bars(self, symbol: str) -> None:
        """Each minute once it is over."""
        async for bar, closed in self._sim.stream_bars(symbol, MINUTE):
            if closed:
                await self.say("bars", symbol, row_of(bar))

    async def _tell_trades(self, symbol: str) -> None:
        async for batch in self._sim.stream_ticks(symbol):
            await self.say("trades", symbol, *(trade_of(symbol, tick) for tick in batch))


def keys_of(said: dict[str, Any]) -> set[Key]:
    return {(channel, symbol) for channel in _KINDS for symbol in said.get(channel, [])}


def row_of(bar: Bar, factor: float = 1.0) -> dict[str, Any]:
    t_ms, *prices, volume = bar
    named = dict(zip("ohlc", (price * factor for price in prices if price is not None), strict=True))
    return {"t": rfc3339(t_ms), **named, "v": volume, "n": 1, "vw": named["c"]}


def trade_of(symbol: str, tick: Tick) -> dict[str, Any]:
    t_ms, price, size, side, trade_id = tick
    row = {"t": rfc3339(t_ms), "p": price, "s": size, "i": int(trade_id)}
    if "/" in symbol:
        return row | {"tks": "S" if side == "sell" else "B"}
    return row | {"c": ["@"], "x": "V", "z": "C"}


def rfc3339(t_ms: int) -> str:
    """As Alpaca writes a time: as many digits of a second as it takes."""
    moment = datetime.fromtimestamp(t_ms / 1000, UTC)
    if t_ms % 1000:
        return moment.isoformat(timespec="milliseconds").replace("+00:00", "321987Z")
    return moment.isoformat(timespec="seconds").replace("+00:00", "Z")


@lru_cache
def calendar(start: str, end: str) -> list[dict[str, str]]:
    """The days of trading by the rules that the simulated exchange has, too."""
    first, last = date.fromisoformat(start), date.fromisoformat(end)
    years = range(first.year, last.year + 1)
    shut = {day for year in years for day in holidays(year)}
    early = {day for year in years for day in early_closes(year)}
    days = (first + timedelta(days=n) for n in range((last - first).days + 1))
    return [
        {
            "date": str(day),
            "open": "09:30",
            "close": "13:00" if day in early else "16:00",
            "session_open": "0400",
            "session_close": "1700" if day in early else "2000",
        }
        for day in days
        if day.weekday() < 5 and day not in shut
    ]


def refusing(status: int, body: Any, **headers: str) -> Answer:
    """An answer that says no."""

    async def answer() -> web.StreamResponse:
        text = body if isinstance(body, str) else json.dumps(body)
        return web.Response(status=status, text=text, content_type="application/json", headers=headers)

    return answer
