"""What the checks stand on: how a provider is made, asked and given up again."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from typing import Any, ClassVar

from marketd.clock import SystemClock
from marketd.domain.bar import Bar, bar_fault
from marketd.domain.errors import MarketdError
from marketd.domain.instant import epoch_ms
from marketd.domain.timeframe import Timeframe
from marketd.plugins.base import MarketPlugin, PluginContext

Check = Callable[[MarketPlugin], Awaitable[None]]


@contextmanager
def raising(kind: type[MarketdError]) -> Iterator[list[MarketdError]]:
    """Fails unless an error of this kind is raised inside; the list holds it then."""
    told: list[MarketdError] = []
    try:
        yield told
    except kind as error:
        told.append(error)
    except Exception as error:
        raise AssertionError(f"{type(error).__name__} was raised, and not {kind.__name__}") from error
    assert told, f"{kind.__name__} was not raised"


class KitBase:
    """What a plugin author says of the provider; see ProviderKit."""

    plugin_class: ClassVar[type[MarketPlugin]]
    settings: ClassVar[Mapping[str, Any]] = {}
    credentials: ClassVar[Mapping[str, Any]] = {}
    params: ClassVar[Mapping[str, Any]] = {}
    market: ClassVar[str]
    symbol: ClassVar[str]
    timeframe: ClassVar[str] = "1m"
    since: ClassVar[int | str]
    before: ClassVar[int | str]
    recording: ClassVar[Sequence[Bar] | None] = None
    stream_timeframe: ClassVar[str] = "1m"
    patience_s: ClassVar[float] = 10.0

    @asynccontextmanager
    async def provider(self) -> AsyncIterator[MarketPlugin]:
        """An open provider; override to start what it needs before it, on the same event loop."""
        plugin = self.make()
        try:
            await plugin.open()
            yield plugin
        finally:
            await plugin.close()

    def make(self) -> MarketPlugin:
        """A provider that is not open yet, its settings read as marketd reads them."""
        cls = self.plugin_class
        return cls(
            PluginContext(
                "kit",
                SystemClock(),
                cls.settings_schema().load(self.settings),
                cls.credentials_schema().load(self.credentials),
            )
        )

    def failures(self) -> Mapping[str, Callable[[], AbstractAsyncContextManager[MarketPlugin]]]:
        """Providers whose vendor fails, by what is wrong; override with all that a test can bring about.

        Each is like `provider`; opening it, or asking it for bars, has to raise a MarketdError.
        """
        return {}

    async def live(self, plugin: MarketPlugin) -> None:
        """Runs while a stream is read; override where the vendor has to be told to go on."""

    async def disconnect(self, plugin: MarketPlugin) -> bool:
        """Cuts the vendor's connection under an open stream; False, where a test cannot."""
        return False

    def run(self, check: Check) -> None:
        """Runs one check with an open provider, in an event loop of its own and in bounded time."""

        async def checked() -> None:
            async with asyncio.timeout(self.patience_s), self.provider() as plugin:
                await check(plugin)

        try:
            asyncio.run(checked())
        except TimeoutError:
            raise AssertionError(f"it was not done within {self.patience_s:g} s") from None

    async def known(self, plugin: MarketPlugin) -> Sequence[Bar]:
        """The bars of the known range."""
        bars = await self.fetch(plugin, self.since_ms, self.before_ms)
        assert len(bars) >= 6, f"there have to be six bars between since and before, not {len(bars)}"
        return bars

    async def fetch(
        self, plugin: MarketPlugin, since_ms: int, before_ms: int, limit: int | None = None
    ) -> Sequence[Bar]:
        """One page of the known series, which has to be valid."""
        limit = plugin.page_limit if limit is None else limit
        bars = await plugin.fetch_ohlcv(
            self.symbol, self.base, since_ms, before_ms, limit, self.loaded_params
        )
        assert isinstance(bars, Sequence), "fetch_ohlcv has to return a sequence of bars"
        for bar in bars:
            fault = bar_fault(bar, self.base)
            assert fault is None, f"the bar {bar!r} cannot be right: {fault}"
        return bars

    @property
    def base(self) -> Timeframe:
        return Timeframe.parse(self.timeframe)

    @property
    def since_ms(self) -> int:
        return epoch_ms(self.since)

    @property
    def before_ms(self) -> int:
        return epoch_ms(self.before)

    @property
    def loaded_params(self) -> Mapping[str, Any]:
        loaded: Mapping[str, Any] = self.plugin_class.params_schema().load(self.params)
        return loaded
