"""Acme's bars for marketd: `GET /symbols` and `GET /bars` of its HTTP interface."""

from collections.abc import Mapping, Sequence
from typing import Any

import aiohttp
from marshmallow import Schema, fields

from marketd.domain.bar import Bar
from marketd.domain.errors import NotReady, ProviderFailed, ProviderRateLimited, UnknownSymbol
from marketd.domain.instrument import SymbolInfo
from marketd.domain.timeframe import Timeframe
from marketd.plugins import MarketPlugin, hookimpl


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
    session: aiohttp.ClientSession | None = None

    async def open(self) -> None:
        self.session = aiohttp.ClientSession(
            self.context.settings["url"], headers={"X-Key": self.context.credentials["key"]}
        )
        await self.get_symbols("forex")

    async def close(self) -> None:
        if self.session is not None:
            await self.session.close()

    async def get_symbols(self, market: str) -> Sequence[SymbolInfo]:
        listed = await self._get("/symbols")
        return [SymbolInfo(one["id"], market, name=one["name"]) for one in listed]

    async def fetch_ohlcv(
        self,
        symbol: str,
        timeframe: Timeframe,
        since: int,
        before: int,
        limit: int,
        params: Mapping[str, Any],
    ) -> Sequence[Bar]:
        rows = await self._get(
            "/bars", symbol=symbol, interval=str(timeframe), start=since, end=before, count=limit
        )
        return [(t, *map(float, values)) for t, *values in rows]

    async def _get(self, path: str, **query: Any) -> Any:
        if self.session is None:
            raise NotReady("Acme is not open.")
        async with self.session.get(path, params=query) as response:
            if response.status in (401, 403):
                raise ProviderFailed("Acme refused the key.", transient=False)
            if response.status == 404:
                raise UnknownSymbol("Acme has no such symbol.")
            if response.status == 429:
                wait_s = float(response.headers.get("Retry-After", 1))
                raise ProviderRateLimited("Acme asks for patience.", retry_after_s=wait_s)
            if response.status != 200:
                raise ProviderFailed(f"Acme answered with {response.status}.")
            return await response.json()


@hookimpl
def marketd_providers() -> Sequence[type[MarketPlugin]]:
    return [AcmePlugin]
