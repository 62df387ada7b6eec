"""One exchange of ccxt as a provider."""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Mapping, Sequence
from operator import attrgetter
from typing import Any, ClassVar

from marketd.domain.bar import Bar, Tick
from marketd.domain.errors import (
    InvalidInput,
    NotReady,
    ProviderFailed,
    UnknownSymbol,
    Unsupported,
)
from marketd.domain.instrument import SymbolInfo
from marketd.domain.timeframe import DAY_MS, Timeframe
from marketd.plugins import (
    BarStreams,
    BarUpdate,
    MarketPlugin,
    PluginContext,
    RateLimit,
    TickHistory,
    TickStreams,
)
from marketd_ccxt.clients import SharedClients, load, make_client, sharing
from marketd_ccxt.errors import translated
from marketd_ccxt.paging import first_bars
from marketd_ccxt.past_trades import past_trades_of
from marketd_ccxt.rows import bars_of, ticks_of
from marketd_ccxt.settings import MARKETS, CcxtCredentials, CcxtSettings

# The page that nearly every exchange gives, for those of which ccxt does not say.
_PAGE = 100
# For so long the markets that were loaded last are taken for new.
_FRESH_MS = 60_000
_TRADES = "trades"


class CcxtPlugin(MarketPlugin, BarStreams, TickStreams, TickHistory):
    """History over REST, and the exchange's own streams where ccxt has them.

    ccxt does not tell when a bar is closed: it is when the next one begins. Where none comes, marketd
    asks the history, as it does where there is no stream.
    """

    plugin: ClassVar[str] = "ccxt"
    description: ClassVar[str] = "Crypto exchanges through ccxt: history, live bars and trades."
    settings_schema = CcxtSettings
    credentials_schema = CcxtCredentials
    settle_ms: ClassVar[int] = 2_000

    def __init__(self, context: PluginContext) -> None:
        super().__init__(context)
        self.markets = [MARKETS[one] for one in context.settings["types"]]
        self.timeframes = ()
        self._past = past_trades_of(context.settings["exchange"], context.settings["types"])
        self.has_tick_history = self._past is not None
        if self._past is not None:
            self.tick_page_limit = self._past.size
        self._client: Any = None
        self._loaded: Any = None
        self._loaded_ms = 0
        self._loading = asyncio.Lock()
        self._streams = SharedClients(self._make_shared)

    async def open(self) -> None:
        """Loads the markets, and tries the credentials if there are any."""
        await self._load()
        timeframes = map(_timeframe, self._loaded.timeframes)
        known = {timeframe for timeframe in timeframes if timeframe is not None}
        self.timeframes = sorted(known, key=attrgetter("nominal_ms"))
        if not (self._loaded.has.get("fetchOHLCV") is True and self.timeframes):
            raise ProviderFailed(f"{self._loaded.id} has no bars.", transient=False)
        self.has_bar_stream = bool(self._loaded.has.get("watchOHLCV"))
        self.has_tick_stream = bool(self._loaded.has.get("watchTrades"))
        # ccxt says how far apart the cheapest requests have to be; those for bars cost a little more.
        self.rate_limit = RateLimit(requests=5, per_ms=math.ceil(6 * self._loaded.rateLimit))
        self.page_limit = min(map(self._page_size, self.context.settings["types"]))
        self._client = await asyncio.to_thread(self._make_shared)
        if self._past is not None:
            self._past.prepare(self._client)

    async def close(self) -> None:
        await self._streams.close()
        if self._client is not None:
            await self._client.close()

    async def get_symbols(self, market: str) -> Sequence[SymbolInfo]:
        if self.clock.now_ms() - self._loaded_ms >= _FRESH_MS:
            await self._load()
        return [
            SymbolInfo(
                one["symbol"],
                market,
                name=one.get("id") or "",
                base=one.get("base") or "",
                quote=one.get("quote") or "",
            )
            for one in self._loaded.markets.values()
            if MARKETS.get(one["type"]) == market and one.get("active") is not False
        ]

    async def fetch_ohlcv(
        self,
        symbol: str,
        timeframe: Timeframe,
        since: int,
        before: int,
        limit: int,
        params: Mapping[str, Any],
    ) -> Sequence[Bar]:
        client = self._open_client(symbol)
        pages = 0

        async def ask(timeframe: Timeframe, since_ms: int) -> list[Bar]:
            nonlocal pages
            if pages:
                # One call is one request under the rate limit; what it needs beyond that, it paces.
                await asyncio.sleep(self.concurrency * client.rateLimit / 1000)
            pages += 1
            with translated(client):
                rows = await client.fetch_ohlcv(symbol, str(timeframe), since_ms, self.page_limit)
            return bars_of(rows, since_ms)

        return await first_bars(
            ask,
            timeframe,
            since,
            before,
            limit,
            size=self.page_limit,
            coarse=self._coarsest(),
            now_ms=self.clock.now_ms(),
        )

    async def fetch_ticks(self, symbol: str, since: int, before: int, limit: int) -> Sequence[Tick]:
        client = self._open_client(symbol)
        if self._past is None:
            raise Unsupported(f"{client.id} is not known to tell all of its past trades.")
        before = min(before, self.clock.now_ms() + 1)
        if since >= before:
            return []
        with translated(client):
            trades = await client.fetch_trades(symbol, None, limit, self._past.since(since))
            ticks = await asyncio.to_thread(ticks_of, trades)
        if ticks and ticks[0][0] < since:
            raise ProviderFailed(f"{client.id} answered with trades of another time.")
        return [tick for tick in ticks if tick[0] < before]

    async def stream_bars(self, symbol: str, timeframe: Timeframe) -> AsyncIterator[BarUpdate]:
        self._open_client(symbol)
        from_ms = timeframe.floor(self.clock.now_ms())
        newest: Bar | None = None
        # Not every exchange of ccxt keeps two timeframes of a symbol apart: each has its own socket.
        async with self._streams.using(str(timeframe)) as client:
            while True:
                rows = await client.watch_ohlcv(symbol, str(timeframe))
                for bar in bars_of(rows, from_ms):
                    if newest is not None and newest[0] < bar[0]:
                        yield BarUpdate(newest, closed=True)
                    yield BarUpdate(bar, closed=False)
                    newest, from_ms = bar, bar[0]

    async def stream_ticks(self, symbol: str) -> AsyncIterator[Sequence[Tick]]:
        self._open_client(symbol)
        from_ms = self.clock.now_ms()
        params = {} if self._past is None else self._past.stream
        async with self._streams.using(_TRADES) as client:
            while True:
                batch = ticks_of(await client.watch_trades(symbol, params=params), from_ms)
                if batch:
                    yield batch

    def _make(self) -> Any:
        return make_client(self.context.settings, self.context.credentials)

    def _make_shared(self) -> Any:
        return sharing(self._make, self._loaded)

    async def _load(self) -> None:
        async with self._loading:
            loaded = await load(self._make)
            wanted = set(self.context.settings["types"])
            if not any(one["type"] in wanted for one in loaded.markets.values()):
                raise ProviderFailed(
                    f"{loaded.id} lists no market of the types {', '.join(sorted(wanted))}.",
                    transient=False,
                )
            self._loaded, self._loaded_ms = loaded, self.clock.now_ms()
            if self._client is not None:
                self._client.set_markets_from_exchange(loaded)

    def _open_client(self, symbol: str) -> Any:
        if self._client is None:
            raise NotReady("The exchange is not open.")
        # ccxt would take the exchange's own name of it as well, and either is to be one symbol.
        if symbol not in self._client.markets:
            raise UnknownSymbol(f"{self._client.id} has no symbol {symbol[:50]}.")
        return self._client

    def _page_size(self, kind: str) -> int:
        """The most bars that one request brings, as far as ccxt says."""
        features = self._loaded.features.get(kind) or {}
        several = [features, features.get("linear") or {}, features.get("inverse") or {}]
        told = [(one.get("fetchOHLCV") or {}).get("limit") for one in several]
        return min((limit for limit in told if limit), default=_PAGE)

    def _coarsest(self) -> Timeframe:
        return max((one for one in self.timeframes if not one.is_calendar), key=attrgetter("nominal_ms"))


def _timeframe(name: str) -> Timeframe | None:
    """Of ccxt's timeframes, those whose bars begin everywhere alike: parts of a day, days, months.

    Weeks and several days begin when the exchange likes; marketd makes its own out of days.
    """
    try:
        timeframe = Timeframe.parse(name)
    except InvalidInput:
        return None
    if timeframe.is_calendar or DAY_MS % timeframe.nominal_ms == 0:
        return timeframe
    return None
