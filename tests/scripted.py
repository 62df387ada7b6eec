"""A provider that a test writes: its bars, its clock, and every way to misbehave."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

from marshmallow import Schema, fields

from marketd.clock import Clock, ManualClock
from marketd.config import UpstreamConfig
from marketd.domain.bar import Bar, Tick, select
from marketd.domain.instrument import Instrument, Series, SymbolInfo
from marketd.domain.timeframe import Timeframe
from marketd.domain.timerange import MAX_MS, MIN_MS, TimeRange
from marketd.metrics import Metrics
from marketd.plugins import (
    BarStreams,
    BarUpdate,
    MarketPlugin,
    PluginContext,
    TickHistory,
    TickStreams,
)
from marketd.plugins.feed import Feed
from marketd.plugins.instance import Source
from marketd.plugins.provider import Provider
from marketd.ratelimit import LocalAllowance, RateLimiter

MINUTE = Timeframe.parse("1m")
M = 60_000
START = 1_709_596_800_000  # 2024-03-05 00:00 UTC, a Tuesday
INSTRUMENT = Instrument("crypto", "test", "BTC/USD")


class Params(Schema):
    adjustment = fields.String(metadata={"description": "how prices are adjusted"})


class ScriptedPlugin(MarketPlugin):
    """Serves `bars` of one symbol. `answers` may replace what the next calls do."""

    plugin = "scripted"
    description = "A test's."
    params_schema = Params
    page_limit = 100

    def __init__(
        self, context: PluginContext, bars: Sequence[Bar], timeframes: Sequence[Timeframe]
    ) -> None:
        super().__init__(context)
        self.markets = ("crypto",)
        self.timeframes = tuple(timeframes)
        self.bars = list(bars)
        self.calls: list[TimeRange] = []
        self.answers: list[Callable[[Sequence[Bar]], Any]] = []
        self.info = SymbolInfo("BTC/USD", "crypto", name="Bitcoin", base="BTC", quote="USD")
        self.opens = 0

    async def open(self) -> None:
        self.opens += 1

    async def get_symbols(self, market: str) -> Sequence[SymbolInfo]:
        return [self.info]

    async def fetch_ohlcv(
        self,
        symbol: str,
        timeframe: Timeframe,
        since: int,
        before: int,
        limit: int,
        params: Mapping[str, Any],
    ) -> Sequence[Bar]:
        self.calls.append(TimeRange(since, before))
        await asyncio.sleep(0)
        end = min(before, self.clock.now_ms() + 1)
        page = list(select(self.bars, since=since, before=end, limit=limit))
        if self.answers:
            answer = self.answers.pop(0)(page)
            return await answer if asyncio.iscoroutine(answer) else answer  # type: ignore[no-any-return]
        return page


class StreamingPlugin(ScriptedPlugin, BarStreams):
    """The same, with a stream that says what the test puts into `updates`, and has the last word.

    It ends once the test has `let_go` of it, as it has at first.
    """

    is_authoritative = True

    def __init__(
        self, context: PluginContext, bars: Sequence[Bar], timeframes: Sequence[Timeframe]
    ) -> None:
        super().__init__(context, bars, timeframes)
        self.updates: asyncio.Queue[BarUpdate | Exception] = asyncio.Queue()
        self.streams = 0
        self.ended = asyncio.Event()
        self.let_go = asyncio.Event()
        self.let_go.set()

    async def stream_bars(self, symbol: str, timeframe: Timeframe) -> AsyncIterator[BarUpdate]:
        self.streams += 1
        try:
            while True:
                update = await self.updates.get()
                if isinstance(update, Exception):
                    raise update
                yield update
        finally:
            self.ended.set()
            await self.let_go.wait()


class TickingPlugin(ScriptedPlugin, TickStreams):
    """Has trades: its stream says what the test puts into `batches`."""

    def __init__(
        self, context: PluginContext, bars: Sequence[Bar], timeframes: Sequence[Timeframe]
    ) -> None:
        super().__init__(context, bars, timeframes)
        self.batches: asyncio.Queue[Sequence[Tick] | Exception] = asyncio.Queue()
        self.streams = 0
        self.endings = 0
        self.ended = asyncio.Event()

    async def stream_ticks(self, symbol: str) -> AsyncIterator[Sequence[Tick]]:
        self.streams += 1
        try:
            while True:
                batch = await self.batches.get()
                if isinstance(batch, Exception):
                    raise batch
                yield batch
        finally:
            self.endings += 1
            self.ended.set()


class RememberingPlugin(TickingPlugin, TickHistory):
    """The same, with a history of the trades in `past`."""

    tick_page_limit = 5

    def __init__(
        self, context: PluginContext, bars: Sequence[Bar], timeframes: Sequence[Timeframe]
    ) -> None:
        super().__init__(context, bars, timeframes)
        self.past: list[Tick] = []
        self.asked: list[TimeRange] = []
        self.tick_answers: list[Callable[[Sequence[Tick]], Any]] = []

    async def fetch_ticks(self, symbol: str, since: int, before: int, limit: int) -> Sequence[Tick]:
        self.asked.append(TimeRange(since, before))
        await asyncio.sleep(0)
        end_ms = min(before, self.clock.now_ms() + 1)
        page = [tick for tick in self.past if since <= tick[0] < end_ms][:limit]
        return self.tick_answers.pop(0)(page) if self.tick_answers else page


def bar(minute: int, close: float | None = None, volume: float = 1.0) -> Bar:
    """A bar `minute` minutes after START."""
    price = 100.0 + minute % 7 if close is None else close
    return (START + minute * M, price, price + 1, price - 1, price, volume)


def provider_of(
    plugin: MarketPlugin, *, retries: int = 0, timeout_ms: int = 2_000, symbols_ttl_ms: int = 3_600_000
) -> Provider:
    """The plugin behind the core's guard."""
    upstream = UpstreamConfig(timeout=timeout_ms, retries=retries, symbols_ttl=symbols_ttl_ms)
    source = Source(lambda: plugin, RateLimiter(LocalAllowance()))
    return Provider("test", source, upstream=upstream, metrics=Metrics())


def scripted(
    bars: Sequence[Bar],
    *,
    now_ms: int,
    timeframes: Sequence[Timeframe] = (MINUTE,),
    cls: type[ScriptedPlugin] = ScriptedPlugin,
    clock: Clock | None = None,
) -> ScriptedPlugin:
    """A scripted plugin whose clock stands at `now_ms`."""
    return cls(PluginContext("test", clock or ManualClock(now_ms)), bars, timeframes)


def feed_of(provider: Provider, timeframe: Timeframe = MINUTE, life: TimeRange | None = None) -> Feed:
    """The base series of INSTRUMENT at `provider`."""
    return Feed(provider, Series(INSTRUMENT, timeframe), {}, life or TimeRange(MIN_MS, MAX_MS))
