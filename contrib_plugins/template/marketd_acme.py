"""Acme's bars for marketd: `GET /symbols` and `GET /bars` of its HTTP interface."""

from collections.abc import Mapping, Sequence
from typing import Any

from marshmallow import Schema, fields

from marketd.domain.bar import Bar
from marketd.domain.instrument import SymbolInfo
from marketd.domain.timeframe import Timeframe
from marketd.plugins import MarketPlugin, PluginContext, hookimpl
from marketd.plugins.http import HttpClient


class Settings(Schema):
    url = fields.Url(load_default="https://api.acme.example", require_tld=False)


class Credentials(Schema):
    key = fields.String(required=True)


class AcmePlugin(MarketPlugin):
    plugin = "acme"
    description = "Forex bars of Acme."
    settings_schema = Settings
    credentials_schema = Credentials
    page_limit = 500
    markets = ("forex",)
    timeframes = (Timeframe.parse("1m"), Timeframe.parse("1d"))

    def __init__(self, context: PluginContext) -> None:
        super().__init__(context)
        headers = {"X-Key": context.credentials["key"]}
        self.http = HttpClient("Acme", context.settings["url"], headers=headers)

    async def open(self) -> None:
        await self.get_symbols("forex")

    async def close(self) -> None:
        await self.http.close()

    async def get_symbols(self, market: str) -> Sequence[SymbolInfo]:
        def read(listed: Any) -> Sequence[SymbolInfo]:
            return [SymbolInfo(one["id"], market, name=one["name"]) for one in listed]

        return await self.http.get("/symbols", {}, read)

    async def fetch_ohlcv(
        self,
        symbol: str,
        timeframe: Timeframe,
        since: int,
        before: int,
        limit: int,
        params: Mapping[str, Any],
    ) -> Sequence[Bar]:
        def read(rows: Any) -> Sequence[Bar]:
            return [(t, *map(float, values)) for t, *values in rows]

        asked = {"symbol": symbol, "interval": timeframe, "start": since, "end": before, "count": limit}
        return await self.http.get("/bars", asked, read)


@hookimpl
def marketd_providers() -> Sequence[type[MarketPlugin]]:
    return [AcmePlugin]
