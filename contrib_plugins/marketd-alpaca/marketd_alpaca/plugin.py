"""Alpaca as a provider."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import aclosing
from typing import Any, ClassVar, TypeVar

from marketd.domain.bar import Bar, Tick, open_time
from marketd.domain.errors import InvalidInput, ProviderFailed, UnknownSymbol, Unsupported
from marketd.domain.instrument import SymbolInfo
from marketd.domain.timeframe import Timeframe
from marketd.domain.timerange import TimeRange
from marketd.plugins import (
    BarStreams,
    BarUpdate,
    MarketHours,
    MarketPlugin,
    PluginContext,
    RateLimit,
    ScaledClock,
    TickHistory,
    TickStreams,
)
from marketd.plugins.http import HttpClient
from marketd_alpaca.api import NAME, AlpacaHttp, addresses, headers_of
from marketd_alpaca.assets import ASSETS, contract_of, is_fed, pair_of, stock_of
from marketd_alpaca.hours import HOUR, MINUTE, in_hours
from marketd_alpaca.inbox import Message
from marketd_alpaca.rows import bar_of, before_text, since_text, stands, tick_of
from marketd_alpaca.sessions import Sessions
from marketd_alpaca.settings import (
    DELAYED,
    US_EQUITY,
    US_OPTION,
    AlpacaCredentials,
    AlpacaParams,
    AlpacaSettings,
)
from marketd_alpaca.streams import SharedStream

T = TypeVar("T")

_TIMEFRAMES = {MINUTE: "1Min", HOUR: "1Hour"}
_MOST_PAGES = 100
_MOST_CONTRACTS = 500_000
# What delayed_sip is late by; a little more, since what is too new is refused.
_DELAY_MS = 15 * 60_000 + 5_000
_CALENDAR_FROM = "2016-01-01"
_YEAR_MS = 366 * 86_400_000


class AlpacaPlugin(MarketPlugin, BarStreams, TickStreams, TickHistory, MarketHours):
    """History over REST; live minutes, corrected minutes and trades over one socket a stream.

    Minutes and hours alone are its own: Alpaca's days of stocks begin at midnight in New York, and
    those of crypto have begun at different hours over the years. marketd makes its days of hours.
    """

    plugin: ClassVar[str] = "alpaca"
    description: ClassVar[str] = "US stocks, crypto and options of Alpaca: history, live bars, trades."
    settings_schema = AlpacaSettings
    credentials_schema = AlpacaCredentials
    params_schema = AlpacaParams
    settle_ms: ClassVar[int] = 5_000
    symbols_cost: ClassVar[int] = 2
    page_limit = 10_000
    tick_page_limit = 10_000
    # What the stream corrects, history has as well.
    is_authoritative = True
    # Two hundred a minute with any key; a plan that has more can be told by the configuration.
    rate_limit = RateLimit(requests=190, per_ms=60_000, burst=10)
    timeframes = (MINUTE, HOUR)

    def __init__(self, context: PluginContext) -> None:
        super().__init__(context)
        settings, credentials = context.settings, context.credentials
        self.markets = list(dict.fromkeys(settings["markets"]))
        if settings["feed"] == DELAYED:
            now_ms = context.clock.now_ms()
            self.clock = ScaledClock(context.clock, start_ms=now_ms - _DELAY_MS, speed=1)
        hosts, headers = addresses(settings), headers_of(settings, credentials)
        self._trading = AlpacaHttp(hosts.trading, headers, context.clock)
        self._data = AlpacaHttp(hosts.data, headers, context.clock)
        self._feed: str = settings["feed"]
        self._streams = {
            market: SharedStream(
                hosts.stream + ASSETS[market].stream.format(feed=self._feed), credentials
            )
            for market in self.markets
            if ASSETS[market].stream
        }
        self._sessions = Sessions()
        self._listed: dict[str, frozenset[str]] = {}
        self._listing = asyncio.Lock()

    async def open(self) -> None:
        """Tries the key where each market needs it: at the listings, and at the feed of stocks."""
        for market in self.markets:
            if market == US_EQUITY:
                await self._load_calendar()
                await self._latest(US_EQUITY, "SPY")
            else:
                await self.get_symbols(market)

    async def close(self) -> None:
        for stream in self._streams.values():
            await stream.close()
        await self._trading.close()
        await self._data.close()

    async def get_symbols(self, market: str) -> Sequence[SymbolInfo]:
        match market:
            case "us_equity":
                await self._load_calendar()
                infos = await self._assets(market, self._stocks)
            case "crypto":
                infos = await self._assets(market, lambda rows: [*map(pair_of, rows)])
            case _:
                infos = await self._contracts()
        self._listed[market] = frozenset(info.symbol for info in infos)
        return infos

    async def fetch_ohlcv(
        self,
        symbol: str,
        timeframe: Timeframe,
        since: int,
        before: int,
        limit: int,
        params: Mapping[str, Any],
    ) -> Sequence[Bar]:
        market = await self._market_of(symbol)
        if market != US_EQUITY and params:
            name = next(iter(params))
            raise InvalidInput(f"{name} is for {US_EQUITY} alone; {symbol[:50]} is none.", field=name)
        now_ms = self.clock.now_ms()
        before = min(before, now_ms + 1)
        since = timeframe.ceil(since)
        if since >= before:
            return []
        is_newest = timeframe == MINUTE and since >= MINUTE.floor(now_ms) - MINUTE.nominal_ms
        if is_newest and not params and ASSETS[market].latest:
            latest = await self._latest(market, symbol)
            if latest is None or latest[0] <= since:
                return [latest] if latest is not None and latest[0] == since else []
        query = {**params, "timeframe": _TIMEFRAMES[timeframe]}
        return await self._history("bars", symbol, since, before, limit, bar_of, query)

    async def fetch_ticks(self, symbol: str, since: int, before: int, limit: int) -> Sequence[Tick]:
        before = min(before, self.clock.now_ms() + 1)
        if since >= before:
            return []
        return await self._history("trades", symbol, since, before, limit, tick_of, {})

    def streams_bars_of(self, symbol: str, timeframe: Timeframe) -> bool:
        """Options have a stream of trades and quotes alone."""
        return symbol not in self._listed.get(US_OPTION, ())

    async def stream_bars(self, symbol: str, timeframe: Timeframe) -> AsyncIterator[BarUpdate]:
        stream = await self._stream_of(symbol)
        async with stream.following(symbol, "bars", "updatedBars") as batches:
            minutes = _minutes(batches)
            if timeframe == MINUTE:
                async for minute in minutes:
                    yield BarUpdate(minute, closed=True)
                return
            now_ms = self.clock.now_ms()
            since_ms = HOUR.shift(HOUR.floor(now_ms), -1)
            begun = await self.fetch_ohlcv(symbol, MINUTE, since_ms, now_ms + 1, self.page_limit, {})
            async with aclosing(in_hours(minutes, begun)) as hours:
                async for hour in hours:
                    yield hour

    async def stream_ticks(self, symbol: str) -> AsyncIterator[Sequence[Tick]]:
        stream = await self._stream_of(symbol)
        async with stream.following(symbol, "trades") as batches:
            async for batch in batches:
                ticks = sorted(_read(batch, tick_of), key=open_time)
                if ticks:
                    yield ticks

    def closed(self, symbol: str, since: int, before: int) -> Sequence[TimeRange]:
        if any(symbol in self._listed.get(market, ()) for market in (US_EQUITY, US_OPTION)):
            return self._sessions.closed(since, before)
        return []

    async def _market_of(self, symbol: str) -> str:
        """Which market lists it: a request for bars names none, and each has addresses of its own."""
        async with self._listing:
            for market in sorted(self.markets, key=lambda one: one not in self._listed):
                if market not in self._listed:
                    await self.get_symbols(market)
                if symbol in self._listed[market]:
                    return market
        raise UnknownSymbol(f"{NAME} does not list {symbol[:50]} in {', '.join(self.markets)}.")

    async def _stream_of(self, symbol: str) -> SharedStream:
        market = await self._market_of(symbol)
        if market not in self._streams:
            raise Unsupported(f"{NAME} has no such stream of {market}.")
        return self._streams[market]

    async def _load_calendar(self) -> None:
        end = since_text(self.clock.now_ms() + _YEAR_MS)[:10]
        query = {"start": _CALENDAR_FROM, "end": end}
        self._sessions = await self._trading.get("/calendar", query, Sessions.of)

    async def _assets(self, market: str, read: Callable[[Any], list[SymbolInfo]]) -> list[SymbolInfo]:
        query = {"status": "active", "asset_class": market}
        return await self._trading.get("/assets", query, read)

    def _stocks(self, rows: Any) -> list[SymbolInfo]:
        return [stock_of(row) for row in rows if is_fed(row, self._feed)]

    async def _contracts(self) -> list[SymbolInfo]:
        query = {
            "underlying_symbols": ",".join(self.context.settings["underlyings"]),
            "status": "active",
            # Without it, only those are listed that expire within days.
            "expiration_date_lte": since_text(self.clock.now_ms() + 5 * _YEAR_MS)[:10],
        }

        def read(answer: Any) -> tuple[list[SymbolInfo], str | None]:
            return [*map(contract_of, answer["option_contracts"] or [])], answer.get("next_page_token")

        return await self._pages(self._trading, "/options/contracts", query, read, _MOST_CONTRACTS)

    async def _latest(self, market: str, symbol: str) -> Bar | None:
        """The newest minute that is over, if there is one."""

        def read(answer: Any) -> Bar | None:
            found = (answer["bars"] or {}).get(symbol)
            return None if found is None else bar_of(found)

        feed = self._feed if market == US_EQUITY else None
        return await self._data.get(ASSETS[market].latest, {"symbols": symbol, "feed": feed}, read)

    async def _history(
        self,
        kind: str,
        symbol: str,
        since: int,
        before: int,
        limit: int,
        read_row: Callable[[Any], T],
        query: Mapping[str, Any],
    ) -> list[T]:
        """The first `limit` bars or trades of a symbol in `[since, before)`."""
        market = await self._market_of(symbol)
        span = {"start": since_text(since), "end": before_text(before), "sort": "asc"}
        feed = "sip" if self._feed == DELAYED else self._feed
        asked = {"symbols": symbol, **span, "feed": feed if market == US_EQUITY else None, **query}

        def read(answer: Any) -> tuple[list[T], str | None]:
            rows = (answer[kind] or {}).get(symbol, ())
            return [read_row(row) for row in rows if stands(row)], answer.get("next_page_token")

        return await self._pages(self._data, ASSETS[market].history[kind], asked, read, limit)

    async def _pages(
        self,
        http: HttpClient,
        path: str,
        query: Mapping[str, Any],
        read: Callable[[Any], tuple[list[T], str | None]],
        limit: int,
    ) -> list[T]:
        """The first `limit` of what is told page by page, each page but the last with a token."""
        found: list[T] = []
        token: str | None = None
        for _ in range(_MOST_PAGES):
            asked = {**query, "limit": min(limit - len(found), self.page_limit), "page_token": token}
            page, token = await http.get(path, asked, read)
            found += page
            if not token or len(found) >= limit:
                return found
            # One call is one request under the rate limit; what it needs beyond that, it paces.
            await asyncio.sleep(self.concurrency * self.rate_limit.interval_us / 1_000_000)
        raise ProviderFailed(f"{NAME} sends page after page without an end.")


async def _minutes(batches: AsyncIterator[Sequence[Message]]) -> AsyncIterator[Bar]:
    async for batch in batches:
        for minute in _read(batch, bar_of):
            yield minute


def _read(batch: Sequence[Message], read: Callable[[Message], T]) -> list[T]:
    try:
        return [read(message) for message in batch]
    except (ValueError, TypeError, LookupError) as error:
        raise ProviderFailed(f"{NAME}'s stream sent something that cannot be read.") from error
