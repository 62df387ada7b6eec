"""A configured provider, by name: its plugin is opened when it is first needed, and closed again.

Behind it is the guard of every call, and what comes back is validated. Whatever a plugin does, its
caller gets valid bars or a MarketdError.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import (
    AsyncGenerator,
    AsyncIterator,
    Awaitable,
    Callable,
    Iterator,
    Mapping,
    Sequence,
)
from contextlib import aclosing, contextmanager
from operator import index
from typing import Any, TypeVar

from marketd.config import UpstreamConfig
from marketd.domain.bar import Tick, bar_fault
from marketd.domain.errors import (
    HistoryEnds,
    MarketdError,
    NotReady,
    ProviderFailed,
    UnknownMarket,
    UnknownProvider,
    UnknownSymbol,
    Unsupported,
)
from marketd.domain.instrument import SymbolInfo
from marketd.domain.rate_limit import RateLimit
from marketd.domain.timeframe import Timeframe
from marketd.domain.timerange import TimeRange, merge
from marketd.metrics import Metrics
from marketd.plugins.base import (
    BarStreams,
    BarUpdate,
    MarketHours,
    MarketPlugin,
    TickHistory,
    TickStreams,
)
from marketd.plugins.guard import NOW, Guard, Health, SetUpAnew, Turn
from marketd.plugins.instance import Instance, Source
from marketd.plugins.pages import Fetched, PageReader, Question
from marketd.plugins.params import load_params
from marketd.plugins.symbols import SymbolBook
from marketd.plugins.tick_bars import MADE_OF_TICKS, fetch_bars
from marketd.plugins.ticks import FetchedTicks, TickReader

log = logging.getLogger(__name__)

T = TypeVar("T")

_REOPEN_AFTER_S = 5.0


class Provider:
    """One provider of the configuration. Its plugin opens with the first call, which waits for that."""

    def __init__(self, name: str, source: Source, *, upstream: UpstreamConfig, metrics: Metrics) -> None:
        self.name = name
        self._source = source
        self._metrics = metrics
        self._guard = Guard(name, upstream=upstream, metrics=metrics)
        self._instance = Instance(source)
        self._opening: asyncio.Task[None] | None = None
        self._reopen_at_s = 0.0
        self._is_gone = False
        self._leases = 0
        self._idle_since_s = time.monotonic()
        self._pages = PageReader(name, metrics)
        self._ticks = TickReader(name, metrics)
        self._book = SymbolBook(self._list_symbols, ttl_s=upstream.symbols_ttl / 1000)

    @property
    def plugin(self) -> MarketPlugin:
        """The plugin, for what it declares; some of that it finds out as it opens."""
        return self._instance.plugin

    @property
    def health(self) -> Health:
        """How it is."""
        return self._guard.health

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
        """True if the plugin pushes the bars of this series; if not, they are polled."""
        plugin = self.plugin
        return (
            isinstance(plugin, BarStreams)
            and plugin.has_bar_stream
            and timeframe in plugin.timeframes_of(symbol)
            and plugin.streams_bars_of(symbol, timeframe)
        )

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

        Where none of the provider's own does, it is one that can be made of its past trades.
        """
        bases = [base for base in self.plugin.timeframes_of(symbol) if base.tiles(wanted)]
        if not bases and self.has_tick_history:
            bases = [base for base in MADE_OF_TICKS if base.tiles(wanted)]
        if not bases:
            have = ", ".join(str(base) for base in self.plugin.timeframes_of(symbol))
            raise Unsupported(
                f"{self.name} has {have or 'no bars'}, from which {wanted} cannot be made."
            )
        return max(bases, key=lambda base: base.nominal_ms)

    def load_params(self, params: Mapping[str, str]) -> dict[str, Any]:
        """The request parameters as the plugin's schema reads them; InvalidInput names a wrong one."""
        return load_params(self.name, self.plugin.params_schema(), params)

    @contextmanager
    def lease(self) -> Iterator[None]:
        """Keeps it from being closed as idle: held by whoever will need it for longer than a call."""
        self._leases += 1
        try:
            yield
        finally:
            self._leases -= 1
            self._idle_since_s = time.monotonic()

    async def open(self) -> None:
        """Opens the plugin unless it is open; one attempt, its failure is raised and kept as health."""
        await self._opened()

    async def close_if_idle(self, idle_s: float) -> None:
        """Closes the plugin if nobody has needed it for so long; the next call opens another one.

        One with a clock of its own stays, since its time would begin anew.
        """
        instance = self._instance
        has_own_time = instance.plugin.clock is not instance.plugin.context.clock
        unused_s = time.monotonic() - self._idle_since_s
        if not instance.is_open or self._leases or unused_s < idle_s or has_own_time:
            return
        log.info("provider closed provider=%s idle_s=%.0f", self.name, unused_s)
        self._guard.rests()
        await self._give_up(instance)

    async def replace(self, source: Source) -> None:
        """Goes on with another source; returns when the plugin of the former one is closed.

        Calls under way are answered by the former plugin. A stream of it fails with its next update, for
        whoever follows it to begin anew.
        """
        former, self._source = self._instance, source
        self._instance = Instance(source)
        self._is_gone = False
        self._reopen_at_s = 0.0
        self._pages = PageReader(self.name, self._metrics)
        self._ticks = TickReader(self.name, self._metrics)
        self._book.forget()
        self._guard.rests()
        await self._give_up(former)

    async def remove(self) -> None:
        """It is configured no more: whoever asks is told so. Returns when its plugin is closed."""
        self._is_gone = True
        await self._give_up(self._instance)
        self._guard.forget()

    async def close(self) -> None:
        """Ends what is under way and closes the plugin."""
        self._is_gone = True
        await self._book.close()
        if self._opening is not None:
            self._opening.cancel()
            await asyncio.gather(self._opening, return_exceptions=True)
        if not self._instance.is_spent:
            self._instance.spend()
            await self._close(self._instance)

    async def markets(self) -> Sequence[str]:
        """Every market; a plugin may find out as it opens which these are."""
        if not self._instance.was_open:
            await self.open()
        return self.plugin.markets

    async def symbols(self, market: str) -> Mapping[str, SymbolInfo]:
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
        try:
            told = plugin.closed(symbol, span.start_ms, span.end_ms)
            ranges = merge(TimeRange(*map(index, piece)).clip(span) for piece in told)
        except Exception as error:
            failure = error if isinstance(error, MarketdError) else self._guard.foreign(error)
            self._guard.failed(failure)
            raise failure from error
        whole = (
            TimeRange(timeframe.ceil(piece.start_ms), timeframe.floor(piece.end_ms)) for piece in ranges
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
        if self.has_tick_history and timeframe not in self.plugin.timeframes_of(symbol):
            return await fetch_bars(lambda part: self.fetch_ticks(symbol, part, turn), timeframe, span)
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

    async def stream_ticks(self, symbol: str) -> AsyncGenerator[list[Tick], None]:
        """The plugin's own stream of trades, validated, in batches that ascend each.

        Only for a plugin with `tick_stream`. Raises as `stream` does.
        """
        instance = await self._opened()
        plugin = instance.plugin
        if not isinstance(plugin, TickStreams):
            raise Unsupported(f"{self.name} has no stream of trades.")
        async with aclosing(self._guarded(instance, plugin.stream_ticks(symbol))) as batches:
            async for batch in batches:
                ticks = await self._ticks.told(batch, symbol, self.now_ms())
                if ticks:
                    yield ticks

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
        settled_ms = timeframe.floor(asked_at_ms - plugin.settle_ms)
        asked = Question(symbol, timeframe, span, limit, plugin.clock.now_ms(), settled_ms)
        return await self._pages.read(rows, asked)

    async def _list_symbols(self, market: str) -> Sequence[SymbolInfo]:
        async def ask(instance: Instance) -> Sequence[SymbolInfo]:
            plugin = instance.plugin
            return await self._guard.call(
                instance, lambda: plugin.get_symbols(market), cost=plugin.symbols_cost
            )

        return await self._ask(ask)

    async def _ask(self, ask: Callable[[Instance], Awaitable[T]]) -> T:
        """What `ask` gives of the open plugin, or of the one that has taken its place meanwhile."""
        with self.lease():
            while True:
                instance = await self._opened()
                try:
                    return await ask(instance)
                except SetUpAnew:
                    continue

    async def _check_market(self, market: str) -> None:
        if market not in self.plugin.markets and market not in await self.markets():
            raise UnknownMarket(f"{self.name} does not serve the market {market[:50]}.")

    async def _opened(self) -> Instance:
        """The open plugin. Who gives up waiting for it does not keep it from opening."""
        while not self._instance.is_open:
            if self._is_gone:
                raise UnknownProvider(f"There is no provider {self.name} any more.")
            if self._opening is None:
                if time.monotonic() < self._reopen_at_s:
                    raise NotReady(f"{self.name} is down: {self.health.message}")
                self._opening = asyncio.create_task(self._open_anew(), name=f"open {self.name}")
                self._opening.add_done_callback(self._opening_ended)
            await asyncio.shield(self._opening)
        return self._instance

    async def _open_anew(self) -> None:
        """Opens a plugin of the present source: the one that waits for it, or a new one."""
        source = self._source
        instance = Instance(source) if self._instance.is_spent else self._instance
        self._guard.opens()
        try:
            await self._guard.take_turn(instance, 1, NOW)
            await self._guard.bounded(instance.plugin.open)
        except BaseException as error:
            instance.spend()
            if isinstance(error, MarketdError) and source is self._source:
                self._reopen_at_s = time.monotonic() + _REOPEN_AFTER_S
                self._guard.failed(error)
            await self._close(instance)
            raise
        if source is not self._source or self._is_gone:
            instance.spend()
            await self._close(instance)
            return
        instance.opened()
        self._instance = instance
        self._idle_since_s = time.monotonic()
        self._guard.succeeded()

    def _opening_ended(self, task: asyncio.Task[None]) -> None:
        self._opening = None
        if not task.cancelled():
            task.exception()  # those who wait are told; there may be none

    async def _give_up(self, instance: Instance) -> None:
        """Closes a plugin as soon as the calls under way have ended, which are bounded."""
        if instance.is_spent:
            return
        was_open = instance.is_open
        instance.spend()
        await instance.unused()
        if was_open:
            await self._close(instance)

    async def _close(self, instance: Instance) -> None:
        """Closes a plugin; a failure to do so is logged, since nobody can act on it any more."""
        try:
            await self._guard.bounded(instance.plugin.close)
        except MarketdError as error:
            log.warning("provider did not close provider=%s reason=%s", self.name, error.message)
