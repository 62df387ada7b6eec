"""A configured provider: a plugin instance behind the core's guard.

The guard opens the plugin, takes a turn at the rate limiter for every call, bounds it in time and
number, retries what is transient with full jitter, validates what comes back, and keeps the provider's
health. Whatever a plugin does, its caller gets valid bars or a MarketdError.
"""

from __future__ import annotations

import asyncio
import logging
import random
import re
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, aclosing
from dataclasses import dataclass
from operator import index
from typing import Any, NamedTuple, Protocol, TypeVar

from marshmallow import ValidationError

from marketd.config import UpstreamConfig
from marketd.domain.bar import Tick, bar_fault
from marketd.domain.errors import (
    HistoryEnds,
    InvalidInput,
    MarketdError,
    NotReady,
    ProviderFailed,
    ProviderRateLimited,
    ProviderTimeout,
    UnknownMarket,
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
from marketd.plugins.pages import Fetched, PageReader, Question
from marketd.plugins.ticks import FetchedTicks, TickReader

log = logging.getLogger(__name__)

T = TypeVar("T")

_FIRST_BACKOFF_S = 0.2
_LONGEST_BACKOFF_S = 5.0
_REOPEN_AFTER_S = 5.0
# A key that can be said in a sentence as it stands.
_SPEAKABLE = re.compile(r"\w[\w.-]{0,49}")
# What a provider without a rate limit may be asked. It can still ask for patience.
_UNLIMITED = RateLimit(requests=1_000_000, per_ms=1_000, burst=1_000_000)


class Turn(NamedTuple):
    """How a call waits for its turn under the rate limit.

    Until `deadline_s` (the loop's time; None: as long as a call may take). `background` work waits as
    long as it takes, and gets what others leave.
    """

    deadline_s: float | None = None
    background: bool = False


NOW = Turn()
BACKGROUND = Turn(background=True)


class Limiter(Protocol):
    """What the guard needs of a rate limiter: one line for everybody who uses the same key."""

    async def acquire(
        self, limit: RateLimit, cost: int, *, deadline_s: float | None, background: bool
    ) -> None:
        """Returns when a call may be made.

        Raises ProviderRateLimited if that is not before `deadline_s`, the loop's time.
        """

    async def penalise(self, pause_s: float) -> None:
        """Lets nobody call for `pause_s`."""


@dataclass(frozen=True, slots=True)
class Health:
    """How a provider is: `opening`, `up` or `down`, and for `down` the reason in a sentence."""

    state: str
    message: str = ""


class _Symbols(NamedTuple):
    by_symbol: Mapping[str, SymbolInfo]
    until_s: float


class Provider:
    """One provider of the configuration, by name. Safe to use before it is open: calls wait for it."""

    def __init__(
        self,
        name: str,
        plugin: MarketPlugin,
        *,
        upstream: UpstreamConfig,
        metrics: Metrics,
        limiter: Limiter,
        rate_limit: RateLimit | None = None,
    ) -> None:
        self.name = name
        self.plugin = plugin
        self.health = Health("opening")
        self._upstream = upstream
        self._metrics = metrics
        self._is_open = False
        self._opening = asyncio.Lock()
        self._reopen_at_s = 0.0
        self._limiter = limiter
        self._rate_limit = rate_limit
        self._calls = asyncio.Semaphore(plugin.concurrency)
        # Background work leaves one call to whoever waits for an answer.
        self._background_calls = asyncio.Semaphore(max(1, plugin.concurrency - 1))
        self._pages = PageReader(name, metrics)
        self._ticks = TickReader(name, metrics)
        self._symbols: dict[str, _Symbols] = {}
        self._symbols_lock = asyncio.Lock()
        metrics.provider_up.labels(name).set(0)

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
        """How often it lets itself be asked: what the configuration says, else what the plugin does."""
        return self._rate_limit or self.plugin.rate_limit

    def now_ms(self) -> int:
        """The provider's present in epoch milliseconds."""
        return self.plugin.clock.now_ms()

    def base_of(self, symbol: str, wanted: Timeframe) -> Timeframe:
        """The coarsest base timeframe of `symbol` that tiles `wanted`; Unsupported if there is none."""
        bases = [base for base in self.plugin.timeframes_of(symbol) if base.tiles(wanted)]
        if not bases:
            have = ", ".join(str(base) for base in self.plugin.timeframes_of(symbol))
            raise Unsupported(
                f"{self.name} has {have or 'no bars'}, from which {wanted} cannot be made."
            )
        return max(bases, key=lambda base: base.nominal_ms)

    def load_params(self, params: Mapping[str, str]) -> dict[str, Any]:
        """The request parameters as the plugin's schema reads them; InvalidInput names a wrong one."""
        schema = self.plugin.params_schema()
        try:
            loaded: dict[str, Any] = schema.load(params)
        except ValidationError as error:
            field, reason = next(iter(error.messages_dict.items()))
            if field in schema.fields:
                told = f"{field} does not fit: {' '.join(map(str, reason))}"
                raise InvalidInput(told, field=field) from None
            allowed = ", ".join(schema.fields) or "no parameters of its own"
            what = field if _SPEAKABLE.fullmatch(field) else "A key"
            told = f"{what} is not a parameter here; {self.name} takes {allowed}."
            raise InvalidInput(told, field=field[:50]) from None
        return loaded

    async def open(self) -> None:
        """Opens the plugin unless it is open; one attempt, its failure is raised and kept as health."""
        async with self._opening:
            if self._is_open:
                return
            if time.monotonic() < self._reopen_at_s:
                raise NotReady(f"{self.name} is down: {self.health.message}")
            try:
                await self._take_turn(1, NOW)
                await self._bounded(self.plugin.open)
            except MarketdError as error:
                self._reopen_at_s = time.monotonic() + _REOPEN_AFTER_S
                self._failed(error)
                raise
            self._is_open = True
            self._succeeded()

    async def close(self) -> None:
        """Closes the plugin; a failure to do so is logged, since nobody can act on it any more."""
        try:
            await self._bounded(self.plugin.close)
        except MarketdError as error:
            log.warning("provider did not close provider=%s reason=%s", self.name, error.message)

    async def symbols(self, market: str) -> Mapping[str, SymbolInfo]:
        """The symbols of `market`, kept for `symbols_ttl` and served stale while the provider fails."""
        if not self._symbols:
            await self.open()
        if market not in self.plugin.markets:
            raise UnknownMarket(f"{self.name} does not serve the market {market[:50]}.")
        async with self._symbols_lock:
            kept = self._symbols.get(market)
            if kept is not None and time.monotonic() < kept.until_s:
                return kept.by_symbol
            try:
                listed = await self._call(
                    lambda: self.plugin.get_symbols(market), cost=self.plugin.symbols_cost
                )
            except MarketdError:
                if kept is None:
                    raise
                return kept.by_symbol
            fresh = {info.symbol: info for info in listed if info.market == market}
            until_s = time.monotonic() + self._upstream.symbols_ttl / 1000
            self._symbols[market] = _Symbols(fresh, until_s)
            return fresh

    async def symbol(self, market: str, symbol: str) -> SymbolInfo:
        """One symbol; UnknownSymbol if the provider does not list it in `market`."""
        kept = self._symbols.get(market)
        if kept is None or time.monotonic() >= kept.until_s:
            listed = await self.symbols(market)
        else:
            listed = kept.by_symbol
        info = listed.get(symbol)
        if info is None:
            raise UnknownSymbol(f"{self.name} has no symbol {symbol[:50]} in the market {market}.")
        return info

    def closed(self, symbol: str, timeframe: Timeframe, span: TimeRange) -> list[TimeRange]:
        """The intervals of `timeframe` in `span` during which, the plugin knows, the market is closed.

        None without `market_hours`. Raises ProviderFailed if the plugin does not answer with ranges.
        """
        if not isinstance(self.plugin, MarketHours):
            return []
        try:
            told = self.plugin.closed(symbol, span.start_ms, span.end_ms)
            ranges = merge(TimeRange(*map(index, piece)).clip(span) for piece in told)
        except Exception as error:
            failure = error if isinstance(error, MarketdError) else self._foreign(error)
            self._failed(failure)
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
        limit, most = self.plugin.page_limit, self.plugin.page_intervals
        if most is not None:
            span = TimeRange(
                span.start_ms, min(span.end_ms, timeframe.shift(timeframe.ceil(span.start_ms), most))
            )
        asked_at_ms = self.now_ms()

        async def page() -> object:
            with self._metrics.fetch_seconds.labels(self.name).time():
                return await self.plugin.fetch_ohlcv(
                    symbol, timeframe, span.start_ms, span.end_ms, limit, params
                )

        try:
            rows = await self._call(page, cost=self.plugin.page_cost, turn=turn)
        except HistoryEnds as error:
            # At least the first interval is given up, or the same would be asked again.
            begins_ms = max(timeframe.ceil(error.first_ms), timeframe.end(span.start_ms))
            end_ms = min(begins_ms, span.end_ms)
            return Fetched([], end_ms, [TimeRange(span.start_ms, end_ms)], begins_ms)
        settled_ms = timeframe.floor(asked_at_ms - self.plugin.settle_ms)
        asked = Question(symbol, timeframe, span, limit, self.now_ms(), settled_ms)
        return await self._pages.read(rows, asked)

    async def stream(self, symbol: str, timeframe: Timeframe) -> AsyncGenerator[BarUpdate, None]:
        """The plugin's own stream of a base series, validated. Only for a plugin with `bar_stream`.

        Raises ProviderFailed when the stream breaks or ends; what follows is the caller's to decide.
        """
        plugin = self.plugin
        if not isinstance(plugin, BarStreams):
            raise Unsupported(f"{self.name} has no stream of bars.")
        await self.open()
        async with aclosing(self._guarded(plugin.stream_bars(symbol, timeframe))) as updates:
            async for update in updates:
                fault = bar_fault(update.bar, timeframe)
                if fault is None:
                    yield update
                else:
                    self._pages.refuse(fault, symbol, timeframe, update.bar)

    async def fetch_ticks(self, symbol: str, span: TimeRange, turn: Turn = NOW) -> FetchedTicks:
        """The first page of trades in `span`. Only for a plugin with `tick_history`; see `fetch`."""
        plugin = self.plugin
        if not isinstance(plugin, TickHistory):
            raise Unsupported(f"{self.name} has no history of trades.")
        limit = plugin.tick_page_limit
        try:
            rows = await self._call(
                lambda: plugin.fetch_ticks(symbol, span.start_ms, span.end_ms, limit),
                cost=self.plugin.page_cost,
                turn=turn,
            )
        except HistoryEnds as error:
            end_ms = min(max(error.first_ms, span.start_ms + 1), span.end_ms)
            return FetchedTicks([], end_ms, [TimeRange(span.start_ms, end_ms)])
        return await self._ticks.page(rows, symbol, span, limit, self.now_ms())

    async def stream_ticks(self, symbol: str) -> AsyncGenerator[list[Tick], None]:
        """The plugin's own stream of trades, validated, in batches that ascend each.

        Only for a plugin with `tick_stream`. Raises as `stream` does.
        """
        plugin = self.plugin
        if not isinstance(plugin, TickStreams):
            raise Unsupported(f"{self.name} has no stream of trades.")
        await self.open()
        async with aclosing(self._guarded(plugin.stream_ticks(symbol))) as batches:
            async for batch in batches:
                ticks = await self._ticks.told(batch, symbol, self.now_ms())
                if ticks:
                    yield ticks

    async def _guarded(self, updates: AsyncIterator[T]) -> AsyncGenerator[T, None]:
        """What a plugin's stream says, until it breaks or ends: then a MarketdError."""
        try:
            async for update in updates:
                yield update
        except MarketdError as error:
            self._failed(error)
            raise
        except Exception as error:
            failure = self._foreign(error)
            self._failed(failure)
            raise failure from error
        finally:
            aclose: Callable[[], Awaitable[None]] | None = getattr(updates, "aclose", None)
            if aclose is not None:
                await aclose()
        raise ProviderFailed(f"The stream of {self.name} ended.")

    async def _call(self, call: Callable[[], Awaitable[T]], *, cost: int, turn: Turn = NOW) -> T:
        """One call of the plugin, opened, in its turn, bounded and retried."""
        await self.open()
        attempt = 0
        while True:
            # The turn comes last: a call that then waited for a free place would come too late.
            async with AsyncExitStack() as places:
                if turn.background:
                    await places.enter_async_context(self._background_calls)
                await places.enter_async_context(self._calls)
                await self._take_turn(cost, turn)
                try:
                    answer = await self._bounded(call)
                except ProviderFailed as error:
                    failure = error
                else:
                    self._succeeded()
                    return answer
            self._metrics.provider_errors.labels(self.name, failure.code).inc()
            pause_s = random.uniform(0, min(_LONGEST_BACKOFF_S, _FIRST_BACKOFF_S * 2**attempt))  # noqa: S311 - jitter
            is_last = not failure.transient or attempt >= self._upstream.retries
            if isinstance(failure, ProviderRateLimited):
                # It is the key that has to wait, whoever uses it; the next turn comes after that.
                self._metrics.rate_limit_pauses.labels(self.name).inc()
                await self._limiter.penalise(max(failure.retry_after_s or 0.0, pause_s))
            elif not is_last:
                await asyncio.sleep(pause_s)
            if is_last:
                self._failed(failure)
                raise failure
            attempt += 1

    async def _take_turn(self, cost: int, turn: Turn) -> None:
        loop = asyncio.get_running_loop()
        started_s = loop.time()
        deadline_s = turn.deadline_s
        if deadline_s is None and not turn.background:
            deadline_s = started_s + self._upstream.timeout / 1000
        limit = self.rate_limit or _UNLIMITED
        try:
            await self._limiter.acquire(limit, cost, deadline_s=deadline_s, background=turn.background)
        except ProviderRateLimited:
            self._metrics.rate_limit_refused.labels(self.name).inc()
            raise
        self._metrics.rate_limit_seconds.labels(self.name).observe(loop.time() - started_s)

    async def _bounded(self, call: Callable[[], Awaitable[T]]) -> T:
        """The plugin's answer, or a MarketdError: whatever else it raises becomes ProviderFailed."""
        timeout_s = self._upstream.timeout / 1000
        try:
            async with asyncio.timeout(timeout_s):
                return await call()
        except MarketdError:
            raise
        except TimeoutError:
            raise ProviderTimeout(f"{self.name} did not answer within {timeout_s:g} s.") from None
        except Exception as error:
            raise self._foreign(error) from error

    def _foreign(self, error: Exception) -> ProviderFailed:
        # Only the kind of a plugin's own error is told: its text may hold a URL with a key in it.
        return ProviderFailed(
            f"{self.name} failed with {type(error).__name__}.", transient=isinstance(error, OSError)
        )

    def _failed(self, error: MarketdError) -> None:
        if self.health.state != "down":
            log.warning("provider down provider=%s reason=%s", self.name, error.message)
        self.health = Health("down", error.message)
        self._metrics.provider_up.labels(self.name).set(0)

    def _succeeded(self) -> None:
        if self.health.state == "up":
            return
        log.info("provider up provider=%s", self.name)
        self.health = Health("up")
        self._metrics.provider_up.labels(self.name).set(1)
