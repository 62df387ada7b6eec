"""A daemon of a test's own, on a clock that the test moves, that may go away and come back."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

from marketd.clock import ManualClock
from marketd.config import Config, ProviderConfig, ServerConfig, StorageConfig
from marketd.daemon import Daemon
from marketd.domain.bar import Bar
from marketd.domain.instrument import SymbolInfo
from marketd.domain.timeframe import Timeframe
from marketd.plugins import MarketPlugin, hookimpl
from marketd.plugins.loader import installed

M = 60_000
START = 1_709_647_200_000  # 2024-03-05T14:00:00Z
NOW = START + 30 * M + 30_000
SIM = ProviderConfig("sim", "sim", {"seed": 1})
FLAWED = ProviderConfig("flawed", "flawed")
SYMBOLS = [f"S{number:04}" for number in range(1_200)]
ODD = f"""timestamp_ms,open,high,low,close,volume
{START},1.5,2,0.5,1.25,10
{START + M},,,,,
{START + 2 * M},NaN,Infinity,-Infinity,NaN,0
{START + 5 * M},3,3,3,3,3
"""


def recorded(folder: Path) -> ProviderConfig:
    """One short recording with every kind of value, under many symbols of the market `odd`."""
    (folder / "odd.csv").write_text(ODD, encoding="utf-8")
    series = [
        {"file": "odd.csv", "market": "odd", "symbol": symbol, "timeframe": "1m"} for symbol in SYMBOLS
    ]
    return ProviderConfig("files", "replay", {"path": str(folder), "series": series})


class Flawed(MarketPlugin):
    """Has a bar for every minute; that of START + 3 minutes cannot be right."""

    plugin = "flawed"
    markets = ("odd",)
    timeframes = (Timeframe.parse("1m"),)

    async def get_symbols(self, market: str) -> Sequence[SymbolInfo]:
        return [SymbolInfo("X", "odd")]

    async def fetch_ohlcv(
        self,
        symbol: str,
        timeframe: Timeframe,
        since: int,
        before: int,
        limit: int,
        params: Mapping[str, Any],
    ) -> Sequence[Bar]:
        times = range(timeframe.ceil(since), min(before, self.clock.now_ms()), M)[:limit]
        return [(t, 1.0, 0.5 if t == START + 3 * M else 2.0, 1.0, 1.0, 1.0) for t in times]


@hookimpl
def marketd_providers() -> Sequence[type[MarketPlugin]]:
    return [Flawed]


class House:
    """Where the daemon lives: it may leave and come back to the same address and database."""

    def __init__(self, folder: Path, storage: str = "") -> None:
        self.clock = ManualClock(NOW)
        self.url = ""
        self._storage = StorageConfig(url=storage or f"sqlite:///{folder / 'marketd.db'}")
        self._daemon: Daemon | None = None

    async def open(self, *providers: ProviderConfig, **sections: Any) -> None:
        port = int(self.url.rpartition(":")[2]) if self.url else 0
        config = Config(
            server=ServerConfig(port=port),
            storage=self._storage,
            providers={provider.name: provider for provider in providers or (SIM,)},
            **sections,
        )
        self._daemon = Daemon(
            config,
            clock=self.clock,
            found=lambda: [*installed(), EntryPoint("house", "house", "marketd")],
        )
        await self._daemon.start()
        self.url = self._daemon.url

    async def close(self) -> None:
        if self._daemon is not None:
            await self._daemon.stop()
        self._daemon = None

    async def streamed(self) -> None:
        """Returns once a client of the stream has come and gone again."""
        assert self._daemon is not None
        requests = self._daemon.metrics.http_requests.labels("GET", "/api/v1/stream", 101)
        while not requests._value.get():  # noqa: ASYNC110 - a counter has no event
            await asyncio.sleep(0.01)

    @asynccontextmanager
    async def passing_time(self, step_ms: int = 20_000) -> AsyncIterator[None]:
        """Lets the daemon's time pass quickly."""

        async def pass_time() -> None:
            while True:
                self.clock.advance(step_ms)
                await asyncio.sleep(0.01)

        task = asyncio.create_task(pass_time())
        try:
            yield
        finally:
            task.cancel()
