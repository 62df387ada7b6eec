"""Massive's aggregates over HTTP: `/v2/aggs` for bars and `/v3/reference/tickers` for symbols."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, TypeVar
from urllib.parse import parse_qsl, quote, urlsplit

from marshmallow import Schema, fields, validate

from marketd.domain.bar import Bar
from marketd.domain.errors import ProviderFailed, UnknownSymbol
from marketd.domain.instrument import SymbolInfo
from marketd.domain.timeframe import Timeframe
from marketd.plugins import MarketPlugin, PluginContext, RateLimit, ScaledClock
from marketd.plugins.http import HttpClient

T = TypeVar("T")

NAME = "Massive"
_MINUTE, _HOUR = Timeframe.parse("1m"), Timeframe.parse("1h")
_SPANS = {_MINUTE: "minute", _HOUR: "hour"}
# marketd's markets and Massive's.
_MARKETS = {"us_equity": "stocks", "crypto": "crypto", "forex": "fx"}
_MOST_PAGES = 100


class MassiveSettings(Schema):
    """The section `[providers.<name>]` of a provider with `plugin = "massive"`."""

    markets = fields.List(
        fields.String(validate=validate.OneOf(list(_MARKETS))),
        load_default=lambda: ["us_equity"],
        validate=validate.Length(min=1),
        metadata={"description": "Which markets are served."},
    )
    delay_minutes = fields.Integer(
        load_default=15,
        validate=validate.Range(min=0, max=10_000),
        metadata={"description": "How late the plan's data are; 1500 for the end of a day."},
    )
    base_url = fields.Url(
        load_default="https://api.massive.com",
        schemes={"http", "https"},
        require_tld=False,
        metadata={"description": "Where Massive is."},
    )


class MassiveCredentials(Schema):
    """The secrets of `[providers.<name>.credentials]`."""

    key = fields.String(required=True, metadata={"description": "The API key."})


class MassiveParams(Schema):
    """What one request for bars may ask for."""

    adjusted = fields.Boolean(metadata={"description": "Adjusted for splits; not, if it is not said."})


class MassivePlugin(MarketPlugin):
    """Minutes and hours: Massive's days of stocks begin at midnight in New York, so they are left alone.

    Its present is as late as the plan's data: what has not been told yet must not pass for silence.
    """

    plugin: ClassVar[str] = "massive"
    description: ClassVar[str] = "US stocks, crypto and forex of Massive, formerly Polygon."
    settings_schema = MassiveSettings
    credentials_schema = MassiveCredentials
    params_schema = MassiveParams
    settle_ms: ClassVar[int] = 10_000
    timeframes = (_MINUTE, _HOUR)
    page_limit = 10_000
    # The plan without a price; what another allows can be told by the configuration.
    rate_limit = RateLimit(requests=4, per_ms=60_000)

    def __init__(self, context: PluginContext) -> None:
        super().__init__(context)
        settings = context.settings
        self.markets = settings["markets"]
        if delay_ms := settings["delay_minutes"] * 60_000:
            late_ms = context.clock.now_ms() - delay_ms
            self.clock = ScaledClock(context.clock, start_ms=late_ms, speed=1)
        headers = {"Authorization": f"Bearer {context.credentials['key']}"}
        self._http = HttpClient(NAME, settings["base_url"], headers=headers)
        self._listed: dict[str, frozenset[str]] = {}

    async def open(self) -> None:
        """Tries the key."""
        await self._http.get("/v3/reference/tickers", {"limit": 1}, dict)

    async def close(self) -> None:
        await self._http.close()

    async def get_symbols(self, market: str) -> Sequence[SymbolInfo]:
        def read(row: Mapping[str, Any]) -> SymbolInfo:
            base = row.get("base_currency_symbol") or ""
            quoted = row.get("currency_symbol") or row.get("currency_name") or ""
            return SymbolInfo(row["ticker"], market, row.get("name") or "", base, quoted.upper())

        query = {"market": _MARKETS[market], "active": "true", "limit": 1_000}
        infos = await self._pages("/v3/reference/tickers", query, read, limit=1_000 * _MOST_PAGES)
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

        def read(row: Mapping[str, Any]) -> Bar:
            o, h, l, c, v = (float(row[name]) for name in "ohlcv")  # noqa: E741 - as Massive has them
            return (int(row["t"]), o, h, l, c, v)

        path = (
            f"/v2/aggs/ticker/{quote(symbol, safe='')}/range/1/{_SPANS[timeframe]}/{since}/{before - 1}"
        )
        query = {"adjusted": str(params.get("adjusted", False)).lower(), "sort": "asc", "limit": limit}
        return await self._pages(path, query, read, limit)

    async def _find(self, symbol: str) -> None:
        """UnknownSymbol unless a market lists it: of any other, Massive says that it has no bars."""
        for market in self.markets:
            if market not in self._listed:
                await self.get_symbols(market)
            if symbol in self._listed[market]:
                return
        raise UnknownSymbol(f"{NAME} does not list {symbol[:50]} in {', '.join(self.markets)}.")

    async def _pages(
        self, path: str, query: Mapping[str, Any], read_row: Callable[[Any], T], limit: int
    ) -> list[T]:
        """The first `limit` results, page by page."""

        def read(answer: Any) -> tuple[list[T], str, str]:
            rows = answer.get("results") or []
            return [*map(read_row, rows)], answer["status"], answer.get("next_url") or ""

        found: list[T] = []
        for _ in range(_MOST_PAGES):
            page, status, next_url = await self._http.get(path, query, read)
            if status == "DELAYED" and not self.context.settings["delay_minutes"]:
                told = f"{NAME}: the plan's data are delayed; set delay_minutes to how much."
                raise ProviderFailed(told, transient=False)
            found += page
            if len(found) >= limit or not next_url:
                return found[:limit]
            # The key goes to Massive's own address, whatever the answer says.
            more = urlsplit(next_url)
            path, query = more.path, dict(parse_qsl(more.query))
        raise ProviderFailed(f"{NAME} sends page after page without an end.")
