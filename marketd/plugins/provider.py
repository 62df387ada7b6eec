"""A configured provider: a plugin instance behind the core's guard.

The guard opens the plugin, bounds every call in time and number, retries what is transient with full
jitter, validates what comes back, and keeps the provider's health. Whatever a plugin does, its caller
gets valid bars or a MarketdError.
"""

from __future__ import annotations

import asyncio
import logging
import random
import re
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from operator import index
from typing import Any, NamedTuple, TypeVar

from marshmallow import ValidationError

from marketd.config import UpstreamConfig
from marketd.domain.bar import Bar, all_valid, bar_fault, open_time
from marketd.domain.errors import (
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
from marketd.domain.timeframe import Timeframe
from marketd.domain.timerange import TimeRange, merge
from marketd.metrics import Metrics
from marketd.plugins.base import BarStreams, BarUpdate, MarketHours, MarketPlugin, TickStreams

log = logging.getLogger(__name__)

T = TypeVar("T")

_FIRST_BACKOFF_S = 0.2
_LONGEST_BACKOFF_S = 5.0
_REOPEN_AFTER_S = 5.0
_REFUSALS_LOGGED = 1_000
# A key that can be said in a sentence as it stands.
_SPEAKABLE = re.compile(r"\w[\w.-]{0,49}")
# Pages above this many bars are validated in another thread.
_INLINE = 2_000


class Fetched(NamedTuple):
    """One page: valid bars, ascending, that are all there is up to `end_ms`, but for `refused`."""

    bars: list[Bar]
    end_ms: int
    refused: list[TimeRange]


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
        self, name: str, plugin: MarketPlugin, *, upstream: UpstreamConfig, metrics: Metrics
    ) -> None:
        self.name = name
        self.plugin = plugin
        self.health = Health("opening")
        self._upstream = upstream
        self._metrics = metrics
        self._is_open = False
        self._opening = asyncio.Lock()
        self._reopen_at_s = 0.0
        self._calls = asyncio.Semaphore(plugin.concurrency)
        self._symbols: dict[str, _Symbols] = {}
        self._symbols_lock = asyncio.Lock()
        self._refused: set[tuple[str, Timeframe, str]] = set()
        metrics.provider_up.labels(name).set(0)

    @property
    def features(self) -> list[str]:
        """What the plugin implements beyond the core: `bar_stream`, `tick_stream`, `market_hours`."""
        capabilities = {
            "bar_stream": BarStreams,
            "tick_stream": TickStreams,
            "market_hours": MarketHours,
        }
        return [name for name, kind in capabilities.items() if isinstance(self.plugin, kind)]

    @property
    def streams_bars(self) -> bool:
        """True if the plugin pushes bars; if not, they are polled."""
        return isinstance(self.plugin, BarStreams)

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
                listed = await self._call(lambda: self.plugin.get_symbols(market))
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
        self, symbol: str, timeframe: Timeframe, span: TimeRange, params: Mapping[str, Any]
    ) -> Fetched:
        """The first page of bars in `span`, closed and forming, in a base timeframe.

        Raises ProviderFailed after the retries, or when what came back cannot be read at all.
        """
        limit = self.plugin.page_limit
        started_s = time.perf_counter()
        rows = await self._call(
            lambda: self.plugin.fetch_ohlcv(symbol, timeframe, span.start_ms, span.end_ms, limit, params)
        )
        self._metrics.fetch_seconds.labels(self.name).observe(time.perf_counter() - started_s)
        if not isinstance(rows, Sequence) or isinstance(rows, str | bytes):
            self._refuse("shape", symbol, timeframe, rows)
            raise self._garbage()
        if len(rows) > _INLINE:
            return await asyncio.to_thread(self._validated, rows, symbol, timeframe, span, limit)
        return self._validated(rows, symbol, timeframe, span, limit)

    def _validated(
        self, rows: Sequence[Bar], symbol: str, timeframe: Timeframe, span: TimeRange, limit: int
    ) -> Fetched:
        """Valid rows in order, once each; where a row was refused, nothing is proven."""
        now_ms = self.now_ms()
        if all_valid(rows, timeframe) and (
            not rows or (span.start_ms <= rows[0][0] and rows[-1][0] < min(span.end_ms, now_ms + 1))
        ):
            full = len(rows) >= limit
            end_ms = timeframe.end(rows[-1][0]) if full else span.end_ms
            return Fetched(list(rows), end_ms, [])
        bars: dict[int, Bar] = {}
        doubtful: set[TimeRange] = set()
        last_ms = span.start_ms
        for row in rows:
            fault = bar_fault(row, timeframe)
            if fault in ("shape", "time"):
                self._refuse(fault, symbol, timeframe, row)
                raise self._garbage()
            t_ms = row[0]
            if fault is None and not span.start_ms <= t_ms < span.end_ms:
                fault = "outside"
            if fault is None and t_ms > now_ms:
                fault = "future"
            if fault is not None:
                self._refuse(fault, symbol, timeframe, row)
                doubtful.add(TimeRange(timeframe.floor(t_ms), timeframe.end(t_ms)))
                continue
            bars[t_ms] = row
            last_ms = max(last_ms, timeframe.end(t_ms))
        # A full page proves what lies before its end; a shorter one proves the whole range.
        end_ms = span.end_ms if len(rows) < limit else last_ms
        if end_ms <= span.start_ms:
            raise ProviderFailed(
                f"{self.name} sent a full page without one bar asked for.", transient=False
            )
        refused = [piece for piece in merge(doubtful) if not piece.clip(span).is_empty]
        return Fetched(sorted(bars.values(), key=open_time), end_ms, refused)

    def _garbage(self) -> ProviderFailed:
        return ProviderFailed(f"{self.name} answered with something that is not bars.", transient=False)

    def _refuse(self, reason: str, symbol: str, timeframe: Timeframe, row: object) -> None:
        self._metrics.bars_refused.labels(self.name, reason).inc()
        kind = (symbol, timeframe, reason)
        if kind in self._refused or len(self._refused) >= _REFUSALS_LOGGED:
            return
        self._refused.add(kind)
        log.warning(
            "bar refused provider=%s symbol=%r timeframe=%s reason=%s bar=%.100r; "
            "more like it are only counted",
            self.name,
            symbol,
            timeframe,
            reason,
            row,
        )

    async def stream(self, symbol: str, timeframe: Timeframe) -> AsyncGenerator[BarUpdate, None]:
        """The plugin's own stream of a base series, validated. Only for a plugin with `bar_stream`.

        Raises ProviderFailed when the stream breaks or ends; what follows is the caller's to decide.
        """
        plugin = self.plugin
        if not isinstance(plugin, BarStreams):
            raise Unsupported(f"{self.name} has no stream of bars.")
        await self.open()
        updates = plugin.stream_bars(symbol, timeframe)
        try:
            async for update in updates:
                fault = bar_fault(update.bar, timeframe)
                if fault is not None:
                    self._refuse(fault, symbol, timeframe, update.bar)
                    continue
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

    async def _call(self, call: Callable[[], Awaitable[T]]) -> T:
        """One call of the plugin, opened, bounded and retried."""
        await self.open()
        attempt = 0
        while True:
            try:
                async with self._calls:
                    answer = await self._bounded(call)
            except ProviderFailed as error:
                self._metrics.provider_errors.labels(self.name, error.code).inc()
                pause_s = _pause_s(error, attempt)
                if not error.transient or attempt >= self._upstream.retries or pause_s is None:
                    self._failed(error)
                    raise
                attempt += 1
                await asyncio.sleep(pause_s)
            else:
                self._succeeded()
                return answer

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


def _pause_s(error: ProviderFailed, attempt: int) -> float | None:
    """How long to wait before the next attempt; None if the provider asks for more than we wait."""
    if isinstance(error, ProviderRateLimited) and error.retry_after_s is not None:
        return error.retry_after_s if error.retry_after_s <= _LONGEST_BACKOFF_S else None
    longest_s = min(_LONGEST_BACKOFF_S, _FIRST_BACKOFF_S * 2**attempt)
    return random.uniform(0, longest_s)  # noqa: S311 - jitter
