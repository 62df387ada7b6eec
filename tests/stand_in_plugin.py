"""The plugin of the stand-in vendor, as a plugin author would write it: over real HTTP."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import aiohttp
from marshmallow import Schema, fields

from marketd.domain.bar import Bar
from marketd.domain.errors import ProviderFailed, ProviderRateLimited
from marketd.domain.instrument import SymbolInfo
from marketd.domain.timeframe import Timeframe
from marketd.plugins import MarketPlugin, PluginContext, RateLimit, hookimpl


class Settings(Schema):
    url = fields.String(required=True)
    requests = fields.Integer(load_default=1_000)
    per_ms = fields.Integer(load_default=1_000)
    burst = fields.Integer(load_default=50)


class Params(Schema):
    venue = fields.String()


class StandInPlugin(MarketPlugin):
    """One crypto market of 1m bars, of which every symbol has the same."""

    plugin = "stand_in"
    description = "A vendor for tests."
    settings_schema = Settings
    params_schema = Params
    page_limit = 100
    markets = ("crypto",)
    timeframes = (Timeframe.parse("1m"),)

    def __init__(self, context: PluginContext) -> None:
        super().__init__(context)
        self._session: aiohttp.ClientSession | None = None

    async def open(self) -> None:
        settings = self.context.settings
        self.rate_limit = RateLimit(settings["requests"], settings["per_ms"], settings["burst"])
        self._session = aiohttp.ClientSession(settings["url"])

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def get_symbols(self, market: str) -> Sequence[SymbolInfo]:
        names = ["BTC/USD", *(f"S{number}" for number in range(40))]
        return [SymbolInfo(name, market) for name in names]

    async def fetch_ohlcv(
        self,
        symbol: str,
        timeframe: Timeframe,
        since: int,
        before: int,
        limit: int,
        params: Mapping[str, Any],
    ) -> Sequence[Bar]:
        assert self._session is not None
        query: dict[str, str | int] = {
            "symbol": symbol,
            "since": since,
            "before": before,
            "limit": limit,
            **params,
        }
        try:
            async with self._session.get("/bars", params=query) as response:
                if response.status == 429:
                    after = response.headers.get("Retry-After")
                    raise ProviderRateLimited(
                        "The vendor asks for patience.", retry_after_s=float(after) if after else None
                    )
                if response.status != 200:
                    raise ProviderFailed(
                        f"The vendor answered {response.status}.", transient=response.status >= 500
                    )
                answered = await response.json()
        except aiohttp.ClientError as error:
            raise ProviderFailed("The vendor cannot be reached.") from error
        except ValueError as error:
            raise ProviderFailed("The vendor answered with no JSON.", transient=False) from error
        # What is no list of rows is for the core to refuse.
        if not isinstance(answered, list):
            return answered  # type: ignore[no-any-return]
        return [tuple(row) if isinstance(row, list) else row for row in answered]


@hookimpl
def marketd_providers() -> Sequence[type[MarketPlugin]]:
    return [StandInPlugin]
