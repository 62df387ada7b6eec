"""Twelve Data over HTTP: `/time_series` for bars, and a list of symbols for each market."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, ClassVar, TypeVar

from marshmallow import Schema, fields, validate

from marketd.domain.bar import Bar
from marketd.domain.errors import HistoryEnds, UnknownSymbol
from marketd.domain.instrument import SymbolInfo
from marketd.domain.timeframe import Timeframe
from marketd.plugins import MarketPlugin, PluginContext, RateLimit
from marketd.plugins.http import HttpClient, http_error

T = TypeVar("T")

NAME = "Twelve Data"
_MINUTE, _HALF_HOUR = Timeframe.parse("1m"), Timeframe.parse("30m")
_INTERVALS = {_MINUTE: "1min", _HALF_HOUR: "30min"}
_LISTS = {
    "us_equity": ("/stocks", {"country": "United States"}),
    "forex": ("/forex_pairs", {}),
    "crypto": ("/cryptocurrencies", {}),
}
_NO_DATA = "no data is available"


class TwelveDataSettings(Schema):
    """The section `[providers.<name>]` of a provider with `plugin = "twelvedata"`."""

    markets = fields.List(
        fields.String(validate=validate.OneOf(list(_LISTS))),
        load_default=lambda: ["us_equity"],
        validate=validate.Length(min=1),
        metadata={"description": "Which markets are served."},
    )
    base_url = fields.Url(
        load_default="https://api.twelvedata.com",
        schemes={"http", "https"},
        require_tld=False,
        metadata={"description": "Where Twelve Data is."},
    )


class TwelveDataCredentials(Schema):
    """The secrets of `[providers.<name>.credentials]`."""

    key = fields.String(required=True, metadata={"description": "The API key."})


class TwelveDataPlugin(MarketPlugin):
    """Minutes and half hours, which begin everywhere alike.

    Hours of stocks begin with the session, at half past, and days are those of the exchange: marketd
    makes its own. Of a range that holds too much the vendor gives the newest 5,000 bars, so that it is
    never asked for more intervals than that.
    """

    plugin: ClassVar[str] = "twelvedata"
    description: ClassVar[str] = "US stocks, forex and crypto of Twelve Data."
    settings_schema = TwelveDataSettings
    credentials_schema = TwelveDataCredentials
    settle_ms: ClassVar[int] = 60_000
    timeframes = (_MINUTE, _HALF_HOUR)
    page_limit = 5_000
    page_intervals = 5_000
    # The plan without a price; what another allows can be told by the configuration.
    rate_limit = RateLimit(requests=7, per_ms=60_000)

    def __init__(self, context: PluginContext) -> None:
        super().__init__(context)
        self.markets = context.settings["markets"]
        headers = {"Authorization": f"apikey {context.credentials['key']}"}
        self._http = HttpClient(NAME, context.settings["base_url"], headers=headers)
        self._listed: dict[str, frozenset[str]] = {}
        self._first_ms: dict[tuple[str, Timeframe], int] = {}

    async def open(self) -> None:
        """Tries the key."""
        await self._get("/api_usage", {}, dict)

    async def close(self) -> None:
        await self._http.close()

    async def get_symbols(self, market: str) -> Sequence[SymbolInfo]:
        def read(answer: Any) -> list[SymbolInfo]:
            # One that is traded at several exchanges is listed for each of them.
            listed = {row["symbol"]: row for row in answer["data"]}
            return [
                SymbolInfo(
                    symbol,
                    market,
                    name=row.get("name") or "",
                    base=row.get("currency_base") or "",
                    quote=row.get("currency_quote") or row.get("currency") or "",
                )
                for symbol, row in listed.items()
            ]

        path, query = _LISTS[market]
        infos = await self._get(path, query, read)
        self._listed[market] = frozenset(info.symbol for info in infos)
        return infos

    async def fetch_ohlcv(
        self,
        symbol: str,
        timeframe: Timeframe,
        since: int,
        before: int,
        limit: int,
        params: Mapping[str, Any],
    ) -> Sequence[Bar]:
        await self._find(symbol)
        since, before = timeframe.ceil(since), min(before, self.clock.now_ms() + 1)
        if since >= before:
            return []
        query = {
            "symbol": symbol,
            "interval": _INTERVALS[timeframe],
            "start_date": _text(since),
            "end_date": _text(before - 1),
            "timezone": "UTC",
            "order": "ASC",
        }
        bars = await self._get("/time_series", query, _bars)
        if not bars or bars[0][0] > since:
            # Either nobody traded then, or the vendor's history begins later.
            first_ms = await self._first(symbol, timeframe)
            if since < first_ms:
                raise HistoryEnds(first_ms)
        return bars[:limit]

    async def _first(self, symbol: str, timeframe: Timeframe) -> int:
        """When the vendor's history of a series begins."""
        first_ms = self._first_ms.get((symbol, timeframe))
        if first_ms is None:
            query = {"symbol": symbol, "interval": _INTERVALS[timeframe], "timezone": "UTC"}
            first_s = await self._get("/earliest_timestamp", query, lambda told: int(told["unix_time"]))
            first_ms = self._first_ms[symbol, timeframe] = first_s * 1_000
        return first_ms

    async def _find(self, symbol: str) -> None:
        """UnknownSymbol unless a market lists it: the vendor takes other spellings of it, too."""
        for market in self.markets:
            if market not in self._listed:
                await self.get_symbols(market)
            if symbol in self._listed[market]:
                return
        raise UnknownSymbol(f"{NAME} does not list {symbol[:50]} in {', '.join(self.markets)}.")

    async def _get(self, path: str, query: Mapping[str, Any], read: Callable[[Any], T]) -> T:
        def checked(answer: Any) -> T:
            # Errors may come with a 200.
            if answer.get("status") == "error" and _NO_DATA not in answer["message"].lower():
                raise http_error(NAME, int(answer["code"]))
            return read(answer)

        return await self._http.get(path, query, checked)


def _bars(answer: Any) -> list[Bar]:
    return [
        (
            _epoch_ms(row["datetime"]),
            float(row["open"]),
            float(row["high"]),
            float(row["low"]),
            float(row["close"]),
            float(row["volume"]) if "volume" in row else None,
        )
        for row in answer.get("values", [])
    ]


def _text(t_ms: int) -> str:
    return datetime.fromtimestamp(t_ms // 1000, UTC).strftime("%Y-%m-%d %H:%M:%S")


def _epoch_ms(text: str) -> int:
    return round(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * 1000
