"""Two exchanges that answer in different ways, through the real client, pass the conformance kit."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import ClassVar

from binance_standin import Binance
from kraken_standin import Kraken
from marketd_ccxt.plugin import CcxtPlugin
from standin import Exchange, refusing

from marketd.clock import SystemClock
from marketd.plugins import MarketPlugin, PluginContext, ScaledClock
from marketd.plugins.testing import ProviderKit

NOW = 1_709_647_200_000  # 2024-03-05T14:00:00Z, a Tuesday


class ExchangeKit(ProviderKit):
    plugin_class = CcxtPlugin
    exchange_class: ClassVar[type[Exchange]]
    market = "crypto"
    symbol = "BTC/USDT"
    since = "2024-03-05T12:00:00Z"
    before = "2024-03-05T12:30:00Z"
    speed: ClassVar[float]
    exchange: Exchange

    @asynccontextmanager
    async def provider(self) -> AsyncIterator[MarketPlugin]:
        self.clock = ScaledClock(SystemClock(), start_ms=NOW, speed=self.speed)
        async with self.exchange_class(self.clock).serving() as exchange:
            self.exchange = exchange
            await self.prepare()
            async with super().provider() as plugin:
                yield plugin

    def make(self) -> MarketPlugin:
        url = self.exchange.url if hasattr(self, "exchange") else "http://127.0.0.1:1"
        settings = {"exchange": self.exchange_class.__name__.lower(), "base_url": url}
        clock = getattr(self, "clock", SystemClock())
        loaded = CcxtPlugin.settings_schema().load(settings)
        credentials = CcxtPlugin.credentials_schema().load(self.credentials)
        return CcxtPlugin(PluginContext("kit", clock, loaded, credentials))

    async def prepare(self) -> None:
        """What a failing vendor is made of."""

    async def disconnect(self, plugin: MarketPlugin) -> bool:
        await self.exchange.hang_up()
        return True

    def failures(self) -> Mapping[str, Callable[[], AbstractAsyncContextManager[MarketPlugin]]]:
        return {"expired key": self.with_an_expired_key, "too many requests": self.with_429}

    @asynccontextmanager
    async def with_an_expired_key(self) -> AsyncIterator[MarketPlugin]:
        self.credentials = {"api_key": "expired", "secret": "c2VjcmV0"}
        try:
            async with self.provider() as plugin:
                yield plugin
        finally:
            self.credentials = {}

    @asynccontextmanager
    async def with_429(self) -> AsyncIterator[MarketPlugin]:
        async with self.provider() as plugin:
            self.exchange.faults.append(refusing(429, {}))
            yield plugin


class TestBinance(ExchangeKit):
    exchange_class = Binance
    stream_timeframe = "1s"
    speed = 10


class TestKraken(ExchangeKit):
    exchange_class = Kraken
    speed = 600
