"""A stand-in for Binance."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from typing import Any, ClassVar

from aiohttp import web
from standin import BTC, HOST, Exchange

from marketd.domain.bar import Tick
from marketd.domain.timeframe import Timeframe

DELIVERY = 1_711_699_200_000  # 2024-03-29T08:00:00Z


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
            case "api/v3/aggTrades":
                return await self._agg_trades(query)
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
                else self._trade_messages(pair, symbol, stream.partition("@")[2])
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

    async def _trade_messages(self, pair: str, symbol: str, kind: str) -> AsyncIterator[Any]:
        async for tick in self.live_trades(symbol):
            named = _agg_trade(tick)
            if kind == "trade":
                # Each has an id of its own, which no history has.
                named["t"] = f"1{named.pop('a')}"
            yield {"e": kind, "E": tick[0], "s": pair, **named}

    async def _agg_trades(self, query: Any) -> web.StreamResponse:
        since, before = int(query["startTime"]), int(query.get("endTime", 2**52)) + 1
        limit = min(int(query.get("limit", 500)), 1_000)
        ticks = await self.trades(since, before, limit, self.spot[query["symbol"]])
        return web.json_response([_agg_trade(tick) for tick in ticks])

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


def _agg_trade(tick: Tick) -> dict[str, Any]:
    t_ms, price, size, side, trade_id = tick
    return {"a": trade_id, "p": repr(price), "q": repr(size), "T": t_ms, "m": side == "sell"}
