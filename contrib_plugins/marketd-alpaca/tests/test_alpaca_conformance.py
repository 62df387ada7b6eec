"""Stocks and crypto, over real sockets, pass the conformance kit."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, ClassVar

from alpaca_standin import KEY, NOW, SECRET, Alpaca, refusing
from marketd_alpaca.plugin import AlpacaPlugin

from marketd.clock import SystemClock
from marketd.plugins import MarketPlugin, PluginContext, RateLimit, ScaledClock
from marketd.plugins.testing import ProviderKit


class AlpacaKit(ProviderKit):
    plugin_class = AlpacaPlugin
    credentials: ClassVar[Mapping[str, Any]] = {"key": KEY, "secret": SECRET}
    since = "2024-03-04T15:00:00Z"
    before = "2024-03-04T15:30:00Z"
    alpaca: Alpaca

    @asynccontextmanager
    async def provider(self) -> AsyncIterator[MarketPlugin]:
        self.clock = ScaledClock(SystemClock(), start_ms=NOW, speed=600)
        async with Alpaca(self.clock).serving() as self.alpaca, super().provider() as plugin:
            yield plugin

    def make(self) -> MarketPlugin:
        url = self.alpaca.url if hasattr(self, "alpaca") else "http://127.0.0.1:1"
        settings = AlpacaPlugin.settings_schema().load({**self.settings, "base_url": url})
        credentials = AlpacaPlugin.credentials_schema().load(self.credentials)
        clock = getattr(self, "clock", SystemClock())
        plugin = AlpacaPlugin(PluginContext("kit", clock, settings, credentials))
        plugin.rate_limit = RateLimit(1_000_000, 1_000)
        return plugin

    async def disconnect(self, plugin: MarketPlugin) -> bool:
        await self.alpaca.hang_up()
        return True

    def failures(self) -> Mapping[str, Callable[[], AbstractAsyncContextManager[MarketPlugin]]]:
        return {"expired key": self.with_an_expired_key, "too many requests": self.with_429}

    @asynccontextmanager
    async def with_an_expired_key(self) -> AsyncIterator[MarketPlugin]:
        self.credentials = {"key": "expired-key", "secret": "expired-secret"}
        try:
            async with self.provider() as plugin:
                yield plugin
        finally:
            del self.credentials

    @asynccontextmanager
    async def with_429(self) -> AsyncIterator[MarketPlugin]:
        async with self.provider() as plugin:
            await plugin.get_symbols(self.market)
            self.alpaca.faults.append(refusing(429, {}))
            yield plugin


class TestStocks(AlpacaKit):
    market = "us_equity"
    symbol = "SPY"


class TestCrypto(AlpacaKit):
    market = "crypto"
    symbol = "BTC/USD"
