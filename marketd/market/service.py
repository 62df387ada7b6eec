"""Markets, providers, symbols and bars by their names, as a client asks for them."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from heapq import nsmallest
from typing import NamedTuple
from urllib.parse import urlencode

from marketd.backfill.job import Wanted
from marketd.domain.bar import Bar, Tick, select
from marketd.domain.coverage import Gap
from marketd.domain.errors import InvalidInput, NotReady, ProviderFailed, UnknownMarket, Unsupported
from marketd.domain.fill import Fill, fill
from marketd.domain.instrument import Instrument, Series, SymbolInfo, TickSeries
from marketd.domain.timeframe import Timeframe
from marketd.domain.timerange import EVER, MAX_MS, MIN_MS, TimeRange
from marketd.domain.token import pack, unpack, unpack_time
from marketd.market.orchestrator import Bars, DataOrchestrator
from marketd.market.tick_bar_pages import TickBarPages
from marketd.market.tick_pages import TickPages, TicksPage
from marketd.market.time_bars import TimeBars
from marketd.plugins.feed import Feed, TickFeed
from marketd.plugins.loader import PluginLoader
from marketd.plugins.provider import Provider
from marketd.storage import Storage

# How far back it is looked whether bars have gone on.
_BESIDE_MS = 600_000


@dataclass(frozen=True, slots=True)
class SeriesName:
    """A series as a client names it; `params` are the provider's own, still as text."""

    instrument: Instrument
    timeframe: Timeframe
    params: Mapping[str, str]

    def series(self, timeframe: Timeframe | None = None) -> Series:
        """The series so named, or the one of the same bars in another timeframe."""
        variant = urlencode(sorted(self.params.items()))
        return Series(self.instrument, timeframe or self.timeframe, variant)


@dataclass(frozen=True, slots=True)
class Window:
    """Which part of a series: see DataOrchestrator.bars. Times in epoch milliseconds."""

    since: int | None
    before: int | None
    limit: int
    page_token: str | None = None


class Stable(NamedTuple):
    """What an answer was made of that only a change of these bars can change.

    Base bars of `series` that open in `reach`, all of them settled.
    """

    series: Series
    reach: TimeRange


class BarsPage(NamedTuple):
    """Bars, the times of rows that were filled in if any were asked for, gaps, and the next page."""

    bars: Sequence[Bar]
    filled: list[int] | None
    gaps: list[Gap]
    next_page_token: str | None
    stable: Stable | None


class SymbolsPage(NamedTuple):
    """Symbols in the order of their names, and where the next page begins."""

    symbols: list[SymbolInfo]
    next_page_token: str | None


class MarketService:
    """What the routes and the stream ask."""

    def __init__(
        self,
        loader: PluginLoader,
        orchestrator: DataOrchestrator,
        time_bars: TimeBars,
        tick_pages: TickPages,
        tick_bar_pages: TickBarPages,
        storage: Storage,
    ) -> None:
        self._loader = loader
        self._orchestrator = orchestrator
        self._time_bars = time_bars
        self._tick_pages = tick_pages
        self._tick_bar_pages = tick_bar_pages
        self._storage = storage

    def markets(self) -> dict[str, list[str]]:
        """Every market, with the names of its providers."""
        return self._loader.get_all_markets()

    def providers(self, market: str | None = None) -> list[Provider]:
        """Every provider, or those of one market; UnknownMarket if nobody serves it."""
        providers = self._loader.providers
        if market is None:
            return list(providers.values())
        if market not in self.markets():
            raise UnknownMarket(f"There is no market {market[:50]}.")
        return [one for one in providers.values() if market in one.plugin.markets]

    def provider(self, name: str) -> Provider:
        """The provider of that name; see PluginLoader.provider."""
        return self._loader.provider(name)

    async def symbols(
        self, market: str | None, provider: str, *, query: str, limit: int, page_token: str | None
    ) -> SymbolsPage:
        """Symbols of one market, or all, whose name or description holds `query`, whatever its case."""
        named = self._loader.provider(provider)
        markets = await named.markets() if market is None else [market]
        listings = [await named.symbols(one) for one in markets]
        after = unpack(page_token, "symbol", field="page_token") if page_token else ""
        # Of a hundred thousand, that would hold up the event loop.
        found = await asyncio.to_thread(_found, listings, query.casefold(), after, limit + 1)
        more = pack("symbol", _place(found[limit - 1])) if len(found) > limit else None
        return SymbolsPage(found[:limit], more)

    async def feed(self, name: SeriesName) -> Feed:
        """The base series that answers for `name`; NotFound, Unsupported or InvalidInput if none can."""
        instrument = name.instrument
        provider = self._loader.provider(instrument.provider)
        info = await provider.symbol(instrument.market, instrument.symbol)
        base = provider.base_of(instrument.symbol, name.timeframe)
        life = TimeRange(
            MIN_MS if info.first_ms is None else base.floor(info.first_ms),
            MAX_MS if info.last_ms is None else base.ceil(info.last_ms),
        )
        return self._feed(provider, name, base, life)

    async def _readable(self, name: SeriesName) -> Feed:
        """The same for a read: what is stored vouches for itself while its provider does not answer."""
        try:
            return await self.feed(name)
        except (ProviderFailed, NotReady):
            provider = self._loader.provider(name.instrument.provider)
            kept = [
                one.timeframe
                for one in await self._storage.series_list()
                if one == name.series(one.timeframe) and one.timeframe.tiles(name.timeframe)
            ]
            if not kept:
                raise
            base = max(kept, key=lambda one: one.nominal_ms)
            return self._feed(provider, name, base, EVER)

    def _feed(self, provider: Provider, name: SeriesName, base: Timeframe, life: TimeRange) -> Feed:
        if base not in provider.made_of_ticks(name.instrument.symbol):
            return Feed(provider, name.series(base), provider.load_params(name.params), life)
        if name.params:
            raise InvalidInput(
                f"{provider.name} has no {base} bars; those made of its trades take no parameters.",
                field=next(iter(name.params))[:50],
            )
        return self._time_bars.feed(provider, name.instrument, base, life)

    async def feed_of(self, wanted: Wanted) -> Feed:
        """The base series that a backfill is of."""
        return await self.feed(SeriesName(wanted.instrument, wanted.timeframe, wanted.params))

    async def bars(self, name: SeriesName, window: Window, how: Fill | None = None) -> BarsPage:
        """One page of bars; `page_token` goes on where the page that gave it ended.

        With `how`, empty buckets get rows: from the first bar of the page on, or, where `since` is
        given and an earlier bar is known, from `since` on. Each counts towards the limit.
        """
        feed = await self._readable(name)
        timeframe, limit = name.timeframe, window.limit
        since, before = window.since, window.before
        side = "before" if since is None else "since"
        if window.page_token:
            edge_ms = unpack_time(window.page_token, side, field="page_token")
            since, before = (None, edge_ms) if since is None else (edge_ms, before)
        # Of the time before the read: an interval that ends meanwhile may have been read as it formed.
        settled_ms = feed.present().settled_end_ms
        found = await self._orchestrator.bars(feed, timeframe, since=since, before=before, limit=limit)
        filled: list[int] | None = None
        if how is not None:
            found, filled = await self._filled(feed, timeframe, found, since, limit, how)
        edge_ms = found.reach.start_ms if since is None else found.reach.end_ms
        token = pack(side, str(edge_ms)) if found.more else None
        # Filled rows may say the close of a bar before the page, and the newest bars are never settled.
        settled = how is None and not found.gaps and found.reach.end_ms <= settled_ms
        stable = Stable(feed.series, found.reach) if settled else None
        return BarsPage(found.bars, filled, found.gaps, token, stable)

    async def tick_feed(self, instrument: Instrument) -> TickFeed:
        """An instrument's trades; NotFound, or Unsupported where the provider tells none."""
        provider = self._loader.provider(instrument.provider)
        await provider.symbol(instrument.market, instrument.symbol)
        if not (provider.streams_ticks or provider.has_tick_history):
            raise Unsupported(f"{provider.name} has no trades.")
        return TickFeed(provider, instrument)

    async def bars_since(self, feed: TickFeed, since_ms: int) -> Sequence[Bar] | None:
        """The provider's finest bars beside a tape, from `since_ms` (or a while ago) to the present."""
        base = await self._beside(feed)
        if base is None:
            return None
        finest, now_ms = base.series.timeframe, feed.provider.now_ms()
        start_ms = finest.floor(max(since_ms, now_ms - _BESIDE_MS))
        bars, _ = await self._orchestrator.closed(base, TimeRange(start_ms, finest.end(now_ms)))
        return bars

    async def quiet_until(self, feed: TickFeed, since_ms: int, last: Tick) -> int:
        """Up to when the provider's finest bars show that there was no trade from `since_ms` on.

        They do if the bar that holds `last`, the last trade before, closes with it, and none after that
        has a volume. If they do not, or `since_ms` is a while ago: 0.
        """
        base = await self._beside(feed)
        if base is None:
            return 0
        finest, settled_ms = base.series.timeframe, base.present().settled_end_ms
        span = TimeRange(finest.floor(since_ms), settled_ms)
        if span.is_empty or span.start_ms < settled_ms - _BESIDE_MS:
            return 0
        bars, gaps = await self._orchestrator.closed(base, span)
        traded = [(bar[0], bar[4]) for bar in bars if bar[5] != 0]
        told = [(finest.floor(last[0]), last[1])] if last[0] >= span.start_ms else []
        return settled_ms if traded == told and not gaps else 0

    async def _beside(self, feed: TickFeed) -> Feed | None:
        """The finest bars that the provider itself has of what is traded, if it has any."""
        bases = feed.provider.timeframes_of(feed.instrument.symbol)
        if not bases:
            return None
        finest = min(bases, key=lambda base: base.nominal_ms)
        return await self.feed(SeriesName(feed.instrument, finest, {}))

    async def ticks(self, instrument: Instrument, window: Window) -> TicksPage:
        """One page of trades; see TickPages.page."""
        return await self._tick_pages.page(
            await self.tick_feed(instrument),
            since=window.since,
            before=window.before,
            limit=window.limit,
            page_token=window.page_token,
        )

    async def tick_bars(self, series: TickSeries, window: Window) -> BarsPage:
        """One page of bars that are measured in trades; see TickBarPages.page."""
        page = await self._tick_bar_pages.page(
            await self.tick_feed(series.instrument),
            series.timeframe,
            since=window.since,
            before=window.before,
            limit=window.limit,
            page_token=window.page_token,
        )
        return BarsPage(page.bars, None, page.gaps, page.next_page_token, None)

    async def gaps(self, name: SeriesName, *, since: int | None, before: int | None) -> list[Gap]:
        """What of the range is not proven, and why; asks nobody."""
        feed = await self._readable(name)
        return await self._orchestrator.gaps(feed, name.timeframe, since=since, before=before)

    async def _filled(
        self, feed: Feed, timeframe: Timeframe, found: Bars, since: int | None, limit: int, how: Fill
    ) -> tuple[Bars, list[int]]:
        """`found` with rows for its empty, closed buckets, cut to `limit` rows again."""
        reach, bars = found.reach, found.bars
        if since is None:
            reach = TimeRange(max(reach.start_ms, timeframe.shift(reach.end_ms, -limit)), reach.end_ms)
        else:
            earlier = await self._orchestrator.bars(
                feed, timeframe, since=None, before=reach.start_ms, limit=1
            )
            bars = [*earlier.bars, *bars]
            first_ms = reach.start_ms if earlier.bars or not bars else bars[0][0]
            reach = TimeRange(first_ms, min(reach.end_ms, timeframe.shift(first_ms, limit)))
        closed = reach.clip(TimeRange(MIN_MS, timeframe.floor(feed.provider.now_ms())))
        skip = [gap.range for gap in found.gaps]
        rows, filled = await asyncio.to_thread(fill, bars, timeframe, closed, how=how, skip=skip)
        rows = list(select(rows, since=reach.start_ms, before=reach.end_ms))
        cut = (
            reach.start_ms > found.reach.start_ms if since is None else reach.end_ms < found.reach.end_ms
        )
        return Bars(rows, reach, found.gaps, found.more or cut), filled


def _found(
    listings: Sequence[Mapping[str, SymbolInfo]], wanted: str, after: str, limit: int
) -> list[SymbolInfo]:
    """The first `limit` symbols after a place that have `wanted` in their name or description."""
    matching = (
        info
        for listing in listings
        for info in listing.values()
        if _place(info) > after and (wanted in info.symbol.casefold() or wanted in info.name.casefold())
    )
    return nsmallest(limit, matching, key=_place)


def _place(info: SymbolInfo) -> str:
    """Where a symbol stands among those of its provider: by its name, then by its market."""
    return f"{info.symbol}\0{info.market}"
