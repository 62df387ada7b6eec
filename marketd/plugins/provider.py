"""A configured provider, by name: what its plugin declares, and what it gives, validated.

Whatever a plugin does, its caller gets valid bars or a MarketdError.
"""

from __future__ import annotations

import asyncio
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Mapping,
    Sequence,
)
from contextlib import aclosing
from operator import index
from typing import Any, TypeVar

from marketd.config import UpstreamConfig
from marketd.domain.bar import bar_fault
from marketd.domain.errors import (
    HistoryEnds,
    MarketdError,
    ProviderFailed,
    UnknownMarket,
    UnknownSymbol,
    Unsupported,
)
from marketd.domain.instrument import SymbolInfo
from marketd.domain.rate_limit import RateLimit
from marketd.domain.tick_bars import MADE_OF_TICKS
from marketd.domain.timeframe import Timeframe
from marketd.domain.timerange import TimeRange, merge
from marketd.metrics import Metrics
from marketd.plugins.base import (
    BarStreams,
    BarUpdate,
    MarketHours,
    TickHistory,
    TickStreams,
)
from marketd.plugins.guard import NOW, Guard, Turn
from marketd.plugins.instance import Instance, Source
from marketd.plugins.life import ProviderLife
from marketd.plugins.pages import Fetched, PageReader, Question
from marketd.plugins.params import load_params
from marketd.plugins.symbols import Listing, SymbolBook, by_symbol
from marketd.plugins.ticks import FetchedTicks, TickReader, ToldTicks

T = TypeVar("T")


class Provider(ProviderLife):
    """One provider of the configuration. Its plugin opens with the first call, which waits for that."""

    def __init__(self, name: str, source: Source, *, upstream: UpstreamConfig, metrics: Metrics) -> None:
        super().__init__(name, source, Guard(name, upstream=upstream, metrics=metrics))
        self._metrics = metrics
        self._pages = PageReader(name, metrics)
        self._ticks = TickReader(name, metrics)
        self._book = SymbolBook(self._list_symbols, ttl_s=upstream.symbols_ttl / 1000)

    async def replace(self, source: Source) -> None:
        self._pages = PageReader(self.name, self._metrics)
        self._ticks = TickReader(self.name, self._metrics)
        self._book.forget()
        await super().replace(source)

    async def close(self) -> None:
        await self._book.close()
        await super().close()

    @property
    def features(self) -> list[str]:
        """What the plugin has beyond the core, by the names that clients see."""
        plugin = self.plugin
        capabilities = {
            "bar_stream": isinstance(plugin, BarStreams) and plugin.has_bar_stream,
            "tick_stream": isinstance(plugin, TickStreams) and plugin.has_tick_stream,
            "tick_history": isinstance(plugin, TickHistory) and plugin.has_tick_history,
            "market_hours": isinstance(plugin, MarketHours),
        }
        return [name for name, has_it in capabilities.items() if has_it]

    def streams_bars(self, symbol: str, timeframe: Timeframe) -> bool:
        """True if the plugin pushes the bars of this series; if not, they are polled.

        Raises ProviderFailed, as each of these, if the plugin fails to say so.
        """
        plugin = self.plugin
        return (
            isinstance(plugin, BarStreams)
            and plugin.has_bar_stream
            and timeframe in self.timeframes_of(symbol)
            and self._told(lambda: plugin.streams_bars_of(symbol, timeframe))
        )

    def timeframes_of(self, symbol: str) -> Sequence[Timeframe]:
        """The base timeframes that the provider itself has of `symbol`."""

        def timeframes() -> Sequence[Timeframe]:
            told = self.plugin.timeframes_of(symbol)
            if not all(isinstance(base, Timeframe) for base in told):
                raise TypeError
            return told

        return self._told(timeframes)

    @property
    def streams_ticks(self) -> bool:
        """True if the plugin pushes trades."""
        return "tick_stream" in self.features

    @property
    def has_tick_history(self) -> bool:
        """True if the plugin tells past trades."""
        return "tick_history" in self.features

    @property
    def rate_limit(self) -> RateLimit | None:
        """How often it lets itself be asked; see Instance."""
        return self._instance.rate_limit

    def now_ms(self) -> int:
        """The provider's present in epoch milliseconds."""
        return self.plugin.clock.now_ms()

    def base_of(self, symbol: str, wanted: Timeframe) -> Timeframe:
        """The coarsest base timeframe of `symbol` that tiles `wanted`; Unsupported if there is none.

        Where none of the provider's own does, it is one that can be made of its trades.
        """
        bases = [base for base in self.timeframes_of(symbol) if base.tiles(wanted)]
        if not bases:
            bases = [base for base in self.made_of_ticks(symbol) if base.tiles(wanted)]
        if not bases:
            have = ", ".join(str(base) for base in self.timeframes_of(symbol))
            raise Unsupported(
                f"{self.name} has {have or 'no bars'}, from which {wanted} cannot be made."
            )
        return max(bases, key=lambda base: base.nominal_ms)

    def made_of_ticks(self, symbol: str) -> list[Timeframe]:
        """The base timeframes that the provider has not, but that trades of `symbol` make up."""
        if not (self.has_tick_history or self.streams_ticks):
            return []
        own = self.timeframes_of(symbol)
        return [base for base in MADE_OF_TICKS if base not in own]

    def load_params(self, params: Mapping[str, str]) -> dict[str, Any]:
        """The request parameters as the plugin's schema reads them; InvalidInput names a wrong one."""
        return load_params(self.name, self.plugin.params_schema, params)

    async def markets(self) -> Sequence[str]:
        """Every market; a plugin may find out as it opens which these are."""
        if not self._instance.was_open:
            await self.open()
        return self.plugin.markets

    async def symbols(self, market: str) -> Listing:
        """The symbols of `market`, kept for `symbols_ttl`, then refreshed behind the answers."""
        await self._check_market(market)
        return await self._book.listing(market)

    async def symbol(self, market: str, symbol: str) -> SymbolInfo:
        """One symbol; UnknownSymbol if the provider does not list it in `market`."""
        await self._check_market(market)
        info = await self._book.find(market, symbol)
        if info is None:
            raise UnknownSymbol(f"{self.name} has no symbol {symbol[:50]} in the market {market}.")
        return info

    def closed(self, symbol: str, timeframe: Timeframe, span: TimeRange) -> list[TimeRange]:
        """The intervals of `timeframe` in `span` during which, the plugin knows, the market is closed.

        None without `market_hours`, or before the plugin was ever open. Raises ProviderFailed if it does
        not answer with ranges.
        """
        plugin = self.plugin
        if not (isinstance(plugin, MarketHours) and self._instance.was_open):
            return []

        def ranges() -> list[TimeRange]:
            told = plugin.closed(symbol, span.start_ms, span.end_ms)
            return merge(TimeRange(*map(index, piece)).clip(span) for piece in told)

        whole = (
            TimeRange(timeframe.ceil(piece.start_ms), timeframe.floor(piece.end_ms))
            for piece in self._told(ranges)
        )
        return [piece for piece in whole if not piece.is_empty]

    async def fetch(
        self,
        symbol: str,
        timeframe: Timeframe,
        span: TimeRange,
        params: Mapping[str, Any],
        turn: Turn = NOW,
    ) -> Fetched:
        """The first page of bars in `span`, closed and forming, in a base timeframe.

        Raises ProviderFailed after the retries, or when what came back cannot be read at all, and
        ProviderRateLimited when its turn would not come in time.
        """
        return await self._ask(
            lambda instance: self._fetch(instance, symbol, timeframe, span, params, turn)
        )

    async def stream(self, symbol: str, timeframe: Timeframe) -> AsyncGenerator[BarUpdate, None]:
        """The plugin's own stream of a base series, validated. Only for a plugin with `bar_stream`.

        Raises ProviderFailed when the stream breaks or ends; what follows is the caller's to decide.
        """
        instance = await self._opened()
        plugin = instance.plugin
        if not isinstance(plugin, BarStreams):
            raise Unsupported(f"{self.name} has no stream of bars.")
        async with aclosing(self._guarded(instance, plugin.stream_bars(symbol, timeframe))) as updates:
            async for update in updates:
                fault = bar_fault(update.bar, timeframe)
                if fault is None:
                    yield update
                else:
                    self._pages.refuse(fault, symbol, timeframe, update.bar)

    async def fetch_ticks(self, symbol: str, span: TimeRange, turn: Turn = NOW) -> FetchedTicks:
        """The first page of trades in `span`. Only for a plugin with `tick_history`; see `fetch`."""

        async def fetch(instance: Instance) -> FetchedTicks:
            plugin = instance.plugin
            if not isinstance(plugin, TickHistory):
                raise Unsupported(f"{self.name} has no history of trades.")
            limit = plugin.tick_page_limit
            try:
                rows = await self._guard.call(
                    instance,
                    lambda: plugin.fetch_ticks(symbol, span.start_ms, span.end_ms, limit),
                    cost=instance.plugin.page_cost,
                    turn=turn,
                )
            except HistoryEnds as error:
                end_ms = min(max(error.first_ms, span.start_ms + 1), span.end_ms)
                return FetchedTicks([], end_ms, [TimeRange(span.start_ms, end_ms)])
            return await self._ticks.page(rows, symbol, span, limit, instance.plugin.clock.now_ms())

        return await self._ask(fetch)

    async def stream_ticks(self, symbol: str) -> AsyncGenerator[ToldTicks, None]:
        """The plugin's own stream of trades, validated, in batches that ascend each.

        Only for a plugin with `tick_stream`. Raises as `stream` does.
        """
        instance = await self._opened()
        plugin = instance.plugin
        if not isinstance(plugin, TickStreams):
            raise Unsupported(f"{self.name} has no stream of trades.")
        async with aclosing(self._guarded(instance, plugin.stream_ticks(symbol))) as batches:
            async for batch in batches:
                yield await self._ticks.told(batch, symbol, self.now_ms())

    async def _guarded(self, instance: Instance, updates: AsyncIterator[T]) -> AsyncGenerator[T, None]:
        """What a plugin's stream says, until it breaks, ends or is given up: then a MarketdError."""
        with self.lease():
            try:
                async for update in updates:
                    if instance.is_spent:
                        break
                    yield update
            except Exception as error:
                failure = error if isinstance(error, MarketdError) else self._guard.foreign(error)
                if not instance.is_spent:
                    self._guard.failed(failure)
                if failure is error:
                    raise
                raise failure from error
            finally:
                aclose: Callable[[], Awaitable[None]] | None = getattr(updates, "aclose", None)
                if aclose is not None:
                    await aclose()
            raise ProviderFailed(f"The stream of {self.name} ended.")

    async def _fetch(
        self,
        instance: Instance,
        symbol: str,
        timeframe: Timeframe,
        span: TimeRange,
        params: Mapping[str, Any],
        turn: Turn,
    ) -> Fetched:
        plugin = instance.plugin
        limit, most = plugin.page_limit, plugin.page_intervals
        if most is not None:
            end_ms = timeframe.shift(timeframe.ceil(span.start_ms), most)
            span = TimeRange(span.start_ms, min(span.end_ms, end_ms))
        asked_at_ms = plugin.clock.now_ms()

        async def page() -> object:
            with self._metrics.fetch_seconds.labels(self.name).time():
                return await plugin.fetch_ohlcv(
                    symbol, timeframe, span.start_ms, span.end_ms, limit, params
                )

        try:
            rows = await self._guard.call(instance, page, cost=plugin.page_cost, turn=turn)
        except HistoryEnds as error:
            # At least the first interval is given up, or the same would be asked again.
            begins_ms = max(timeframe.ceil(error.first_ms), timeframe.end(span.start_ms))
            end_ms = min(begins_ms, span.end_ms)
            return Fetched([], end_ms, [TimeRange(span.start_ms, end_ms)], begins_ms)
        if turn.background:
            # To read a page takes about as long as the plugin took: what has come meanwhile goes first.
            await asyncio.sleep(0)
        settled_ms = timeframe.floor(asked_at_ms - plugin.settle_ms)
        asked = Question(symbol, timeframe, span, limit, plugin.clock.now_ms(), settled_ms)
        return await self._pages.read(rows, asked)

    async def _list_symbols(self, market: str) -> Listing:
        async def ask(instance: Instance) -> Sequence[SymbolInfo]:
            plugin = instance.plugin
            return await self._guard.call(
                instance, lambda: plugin.get_symbols(market), cost=plugin.symbols_cost
            )

        listed = await self._ask(ask)
        try:
            return await asyncio.to_thread(by_symbol, listed, market, self.name)
        except ProviderFailed as error:
            self._guard.failed(error)
            raise

    def _told(self, say: Callable[[], T]) -> T:
        """What the plugin says at once; ProviderFailed if it raises anything."""
        try:
            return say()
        except Exception as error:
            failure = error if isinstance(error, MarketdError) else self._guard.foreign(error)
            self._guard.failed(failure)
            raise failure from error

    async def _check_market(self, market: str) -> None:
        if market not in self.plugin.markets and market not in await self.markets():
            raise UnknownMarket(f"{self.name} does not serve the market {market[:50]}.")
