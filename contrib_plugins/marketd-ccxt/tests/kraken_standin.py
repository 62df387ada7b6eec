"""A stand-in for Kraken."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from datetime import UTC, datetime
from typing import Any, ClassVar

from aiohttp import web
from standin import Exchange

from marketd.domain.bar import Bar
from marketd.domain.timeframe import Timeframe

MINUTE, DAY = Timeframe.parse("1m"), Timeframe.parse("1d")


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
            case "0/public/Trades":
                return await self._trades(request.query)
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

    async def _trades(self, query: Any) -> web.StreamResponse:
        """The first ones after a time in nanoseconds, or seconds."""
        after = query["since"]
        since = int(after) // 1_000_000 + 1 if len(after) > 12 else int(after) * 1_000 + 1
        ticks = await self.trades(since, self._clock.now_ms() + 1, int(query.get("count", 1_000)))
        rows = [
            [repr(price), repr(size), t_ms / 1000, side[:1], "m", "", trade_id]
            for t_ms, price, size, side, trade_id in ticks
        ]
        last = f"{ticks[-1][0]}000000" if ticks else after
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
        async for t_ms, price, size, side, trade_id in self.live_trades():
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
