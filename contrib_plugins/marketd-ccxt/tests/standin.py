"""Local stand-ins that answer as Binance and Kraken do, with the simulated exchange's values.

An address holds the exchange's own host: http://127.0.0.1:<port>/api.kraken.com/0/public/OHLC.
"""

from __future__ import annotations

import asyncio
import json
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any, ClassVar

from aiohttp import WSCloseCode, WSMsgType, web
from aiohttp.test_utils import TestServer

from marketd.domain.bar import Bar, Tick
from marketd.domain.resample import resample
from marketd.domain.timeframe import Timeframe
from marketd.plugins import Clock, PluginContext
from marketd.plugins.sim import SimPlugin

Answer = Callable[[], Awaitable[web.StreamResponse]]

_HISTORIES: dict[str, Any] = {}
BTC = "BTC/USD"
HOST = web.ResponseKey("HOST", str)
DELIVERY = 1_711_699_200_000  # 2024-03-29T08:00:00Z
MINUTE, DAY = Timeframe.parse("1m"), Timeframe.parse("1d")


class Exchange(ABC):
    """An exchange with one pair, BTC/USDT, which is the simulated BTC/USD.

    `faults` are what the next REST requests are answered with; `key` is the one that it takes.
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

    async def trades(self, symbol: str = BTC) -> AsyncIterator[Tick]:
        async for batch in self._sim.stream_ticks(symbol):
            for tick in batch:
                yield tick

    @abstractmethod
    async def rest(self, path: str, request: web.Request) -> web.StreamResponse:
        """The answer to one request."""

    @abstractmethod
    async def said(self, socket: web.WebSocketResponse, message: dict[str, Any]) -> None:
        """What a client said on a socket."""


class Binance(Exchange):
    """Gives the first bars from a time on, at most a thousand; streams tell when a bar is closed.

    Its contracts have addresses of their own, where a perpetual is called like the pair.
    """

    # The simulated symbols that its pair and its contracts are.
    spot: ClassVar[Mapping[str, str]] = {"BTCUSDT": BTC}
    contracts: ClassVar[Mapping[str, str]] = {"BTCUSDT": "ETH/USD", "BTCUSDT_240329": "SOL/USD"}
    hollow: ClassVar[Any] = [[None] * 12]

    async def rest(self, path: str, request: web.Request) -> web.StreamResponse:
        query = request.query
        match path:
            case "api/v3/exchangeInfo":
                return web.json_response(self._listing())
            case "api/v3/klines":
                return await self._klines(query, self.spot)
            case "fapi/v1/exchangeInfo":
                listed = [self._contract("BTCUSDT"), self._contract("BTCUSDT_240329", DELIVERY)]
                return web.json_response(self._listing() | {"symbols": listed})
            case "dapi/v1/exchangeInfo":
                return web.json_response(self._listing() | {"symbols": []})
            case "fapi/v1/klines":
                return await self._klines(query, self.contracts)
            case "sapi/v1/margin/allPairs" | "sapi/v1/margin/isolated/allPairs":
                return web.json_response([])
            case "api/v3/account" | "sapi/v1/capital/config/getall":
                if request.headers.get("X-MBX-APIKEY") == self.key:
                    return web.json_response({"balances": []} if "account" in path else [])
                refused = {"code": -2015, "msg": "Invalid API-key, IP, or permissions for action."}
                return web.json_response(refused, status=401)
        return web.json_response({"code": -1, "msg": f"unforeseen {path}"}, status=404)

    async def said(self, socket: web.WebSocketResponse, message: dict[str, Any]) -> None:
        if message.get("method") != "SUBSCRIBE":
            return
        await socket.send_json({"result": None, "id": message["id"]})
        for stream in message["params"]:
            pair, _, channel = stream.upper().partition("@")
            symbol = (self.spot if socket[HOST].startswith("stream.") else self.contracts)[pair]
            kind, _, _ = channel.partition("_")
            timeframe = stream.rpartition("_")[2]
            told = (
                self._kline_messages(pair, symbol, timeframe)
                if kind == "KLINE"
                else self._trade_messages(pair, symbol)
            )
            self.push(socket, told)
            self.subscribed.put_nowait(stream)

    async def _klines(self, query: Any, symbols: Mapping[str, str]) -> web.StreamResponse:
        since, before = int(query.get("startTime", 0)), int(query.get("endTime", 2**52)) + 1
        limit = min(int(query.get("limit", 500)), 1_000)
        symbol = symbols[query["symbol"]]
        bars = await self.history(query["interval"], since, before, limit, symbol)
        timeframe = Timeframe.parse(query["interval"])
        zero = "0.00000000"
        rows = [
            [bar[0], *map(repr, bar[1:]), timeframe.end(bar[0]) - 1, zero, 1, zero, zero, "0"]
            for bar in bars
        ]
        return web.json_response(rows)

    async def _kline_messages(self, pair: str, symbol: str, timeframe: str) -> AsyncIterator[Any]:
        async for (t_ms, *values), closed in self._sim.stream_bars(symbol, Timeframe.parse(timeframe)):
            named = dict(zip("ohlcv", map(repr, values), strict=True))
            end_ms = Timeframe.parse(timeframe).end(t_ms) - 1
            kline = {"t": t_ms, "T": end_ms, "s": pair, "i": timeframe, "x": closed, **named}
            yield {"e": "kline", "E": self._clock.now_ms(), "s": pair, "k": kline}

    async def _trade_messages(self, pair: str, symbol: str) -> AsyncIterator[Any]:
        async for t_ms, price, size, side, trade_id in self.trades(symbol):
            yield {
                "e": "trade",
                "E": t_ms,
                "s": pair,
                "t": trade_id,
                "p": repr(price),
                "q": repr(size),
                "T": t_ms,
                "m": side == "sell",
            }

    def _listing(self) -> dict[str, Any]:
        pair = {
            "symbol": "BTCUSDT",
            "status": "TRADING",
            "baseAsset": "BTC",
            "baseAssetPrecision": 8,
            "quoteAsset": "USDT",
            "quotePrecision": 8,
            "isSpotTradingAllowed": True,
            "isMarginTradingAllowed": False,
            "permissions": [],
            "permissionSets": [["SPOT"]],
            "filters": [{"filterType": "PRICE_FILTER", "tickSize": "0.01000000"}],
        }
        return {"timezone": "UTC", "rateLimits": [], "exchangeFilters": [], "symbols": [pair]}

    def _contract(self, name: str, delivery_ms: int = 4_133_404_800_000) -> dict[str, Any]:
        return {
            "symbol": name,
            "pair": "BTCUSDT",
            "contractType": "PERPETUAL" if name == "BTCUSDT" else "CURRENT_QUARTER",
            "deliveryDate": delivery_ms,
            "onboardDate": 1_569_398_400_000,
            "status": "TRADING",
            "baseAsset": "BTC",
            "quoteAsset": "USDT",
            "marginAsset": "USDT",
            "pricePrecision": 2,
            "quantityPrecision": 3,
            "baseAssetPrecision": 8,
            "quotePrecision": 8,
            "filters": [{"filterType": "PRICE_FILTER", "tickSize": "0.10"}],
        }


class Kraken(Exchange):
    """Gives its newest 720 bars and no others; a subscription begins with a snapshot."""

    kept = 720
    hollow: ClassVar[Any] = {"error": [], "result": {"XBTUSDT": [[None] * 8], "last": 0}}

    async def rest(self, path: str, request: web.Request) -> web.StreamResponse:
        match path:
            case "0/public/Assets":
                assets = {"XXBT": _asset("XBT"), "USDT": _asset("USDT")}
                return web.json_response({"error": [], "result": assets})
            case "0/public/AssetPairs":
                return web.json_response({"error": [], "result": {"XBTUSDT": self._pair()}})
            case "0/public/OHLC":
                return await self._ohlc(request.query)
            case "0/private/Balance" | "0/private/BalanceEx":
                if request.headers.get("API-Key") == self.key:
                    return web.json_response({"error": [], "result": {}})
                return web.json_response({"error": ["EAPI:Invalid key"]})
        return web.json_response({"error": [f"EGeneral:Unknown method {path}"]}, status=404)

    async def said(self, socket: web.WebSocketResponse, message: dict[str, Any]) -> None:
        if message.get("method") == "ping":
            await socket.send_json({"method": "pong", "req_id": message.get("req_id")})
        if message.get("method") != "subscribe":
            return
        told = message["params"]
        channel, (pair,) = told["channel"], told["symbol"]
        result = {"channel": channel, "symbol": pair, "snapshot": True}
        await socket.send_json(
            {"method": "subscribe", "req_id": message["req_id"], "result": result, "success": True}
        )
        if channel == "ohlc":
            self.push(socket, self._ohlc_messages(pair, int(told["interval"])))
        else:
            self.push(socket, self._trade_messages(pair))
        self.subscribed.put_nowait(f"{pair}@{channel}")

    async def _ohlc(self, query: Any) -> web.StreamResponse:
        timeframe = _kraken_timeframe(int(query.get("interval", 1)))
        now_ms = self._clock.now_ms()
        first_ms = timeframe.shift(timeframe.floor(now_ms), -self.kept + 1)
        since = max(first_ms, int(query.get("since", 0)) * 1000 + 1)
        bars = await self.history(str(timeframe), since, now_ms + 1, self.kept)
        rows = [[bar[0] // 1000, *map(repr, bar[1:5]), "0.0", repr(bar[5]), 1] for bar in bars]
        last = rows[-2][0] if len(rows) > 1 else 0
        return web.json_response({"error": [], "result": {"XBTUSDT": rows, "last": last}})

    async def _ohlc_messages(self, pair: str, interval: int) -> AsyncIterator[Any]:
        timeframe = _kraken_timeframe(interval)
        now_ms = self._clock.now_ms()
        live = self._sim.stream_bars("BTC/USD", timeframe)
        past = await self.history(str(timeframe), now_ms - 5 * timeframe.nominal_ms, now_ms + 1, 10)
        yield self._ohlc_message("snapshot", pair, interval, past)
        async for bar, _ in live:
            yield self._ohlc_message("update", pair, interval, [bar])

    def _ohlc_message(self, kind: str, pair: str, interval: int, bars: Sequence[Bar]) -> Any:
        data = [
            {
                "symbol": pair,
                "interval": interval,
                "interval_begin": _rfc3339(t_ms),
                "vwap": open_,
                "trades": 1,
                "open": open_,
                "high": high,
                "low": low,
                "close": close,
                "volume": volume,
            }
            for t_ms, open_, high, low, close, volume in bars
        ]
        return {"channel": "ohlc", "type": kind, "data": data}

    async def _trade_messages(self, pair: str) -> AsyncIterator[Any]:
        async for t_ms, price, size, side, trade_id in self.trades():
            trade = {"symbol": pair, "side": side or "buy", "price": price, "qty": size}
            more = {"ord_type": "market", "trade_id": trade_id, "timestamp": _rfc3339(t_ms)}
            yield {"channel": "trade", "type": "update", "data": [trade | more]}

    def _pair(self) -> dict[str, Any]:
        return {
            "altname": "XBTUSDT",
            "wsname": "XBT/USDT",
            "aclass_base": "currency",
            "base": "XXBT",
            "aclass_quote": "currency",
            "quote": "USDT",
            "lot": "unit",
            "pair_decimals": 1,
            "lot_decimals": 8,
            "lot_multiplier": 1,
            "leverage_buy": [],
            "leverage_sell": [],
            "fees": [[0, 0.4]],
            "fees_maker": [[0, 0.25]],
            "fee_volume_currency": "ZUSD",
            "ordermin": "0.0001",
            "tick_size": "0.1",
            "status": "online",
        }


def _asset(altname: str) -> dict[str, Any]:
    return {"aclass": "currency", "altname": altname, "decimals": 10, "display_decimals": 5}


def _kraken_timeframe(interval: int) -> Timeframe:
    return {1: MINUTE, 1440: DAY}.get(interval) or Timeframe(interval, "m")


def _rfc3339(t_ms: int) -> str:
    return (
        datetime.fromtimestamp(t_ms / 1000, UTC)
        .isoformat(timespec="milliseconds")
        .replace("+00:00", "000000Z")
    )


def refusing(status: int, body: Any, **headers: str) -> Answer:
    """An answer that says no."""

    async def answer() -> web.StreamResponse:
        text = body if isinstance(body, str) else json.dumps(body)
        return web.Response(status=status, text=text, content_type="application/json", headers=headers)

    return answer
