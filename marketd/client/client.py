"""The client itself: a method for each question that the daemon answers."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Mapping, Sequence
from typing import Any

from marketd.client.answers import (
    Backfill,
    Bars,
    Gap,
    ProviderInfo,
    Refreshed,
    StreamEvent,
    Ticks,
    TickStreamEvent,
    Time,
    backfill_of,
    bars_of,
    gap_of,
    ticks_of,
    time_text,
)
from marketd.client.asking import Asking
from marketd.client.stream import FollowingBars, FollowingTicks, follow
from marketd.domain.instrument import SymbolInfo

_BACKFILLS = "/api/v1/backfills"


class MarketdClient(Asking):
    """The daemon at `url`. Every method raises MarketdClientError if it says no or does not answer."""

    async def ready(self) -> dict[str, Any]:
        """What `/readyz` says of the daemon, its plugins and its providers, ready or not."""
        return await self._get("/readyz", {})

    async def markets(self) -> dict[str, list[str]]:
        """Every market with the names of its providers, e.g. `{"crypto": ["kraken", "sim"]}`."""
        body = await self._get("/api/v1/markets", {})
        return {one["market"]: one["providers"] for one in body["markets"]}

    async def providers(self, market: str | None = None) -> list[ProviderInfo]:
        """Every provider, or those of one market."""
        body = await self._get("/api/v1/providers", {"market": market})
        return [
            ProviderInfo(
                provider=one["provider"],
                plugin=one["plugin"],
                description=one["description"],
                markets=one["markets"],
                timeframes=one["timeframes"],
                features=one["features"],
                state=one["health"]["state"],
                message=one["health"]["message"],
            )
            for one in body["providers"]
        ]

    async def symbols(
        self, market: str, provider: str, query: str = ""
    ) -> AsyncGenerator[SymbolInfo, None]:
        """Symbols whose own name or description holds `query`, in order; pages are fetched as needed.

        Example:
            async for info in marketd.symbols("crypto", "sim", query="btc"):
                print(info.symbol, info.name)
        """
        token: str | None = None
        while True:
            question = {"market": market, "provider": provider, "query": query, "page_token": token}
            body = await self._get("/api/v1/symbols", question)
            for one in body["symbols"]:
                yield SymbolInfo(
                    symbol=one["symbol"],
                    market=market,
                    name=one["name"],
                    base=one["base"],
                    quote=one["quote"],
                    first_ms=one["first"],
                    last_ms=one["last"],
                )
            token = body["next_page_token"]
            if token is None:
                return

    async def ohlcv(
        self,
        market: str,
        provider: str,
        symbol: str,
        timeframe: str,
        *,
        since: Time | None = None,
        before: Time | None = None,
        limit: int = 500,
        page_token: str | None = None,
        fill: str | None = None,
        params: Mapping[str, str] | None = None,
    ) -> Bars:
        """The first `limit` bars from `since` on, or without it the last ones before `before` (now).

        `fill` gives every empty interval a row: `null`, or `prev` for the previous close. `params` are
        the provider's own parameters.

        Example:
            page = await marketd.ohlcv("crypto", "sim", "BTC/USD", "1h", since="2024-03-05T00:00:00Z")
        """
        question: dict[str, Time | None] = {
            **(params or {}),
            "market": market,
            "provider": provider,
            "symbol": symbol,
            "timeframe": timeframe,
            "since": since,
            "before": before,
            "limit": limit,
            "page_token": page_token,
            "fill": fill,
        }
        body = await self._get("/api/v1/ohlcv", question)
        return Bars(
            bars=bars_of(body["bars"]),
            complete=body["complete"],
            gaps=[gap_of(symbol, gap) for gap in body["gaps"]],
            next_page_token=body["next_page_token"],
            filled=body.get("filled", []),
        )

    async def iter_bars(
        self,
        market: str,
        provider: str,
        symbol: str,
        timeframe: str,
        *,
        since: Time | None = None,
        before: Time | None = None,
        limit: int = 10_000,
        fill: str | None = None,
        params: Mapping[str, str] | None = None,
    ) -> AsyncGenerator[Bars, None]:
        """Every bar from `since` on, in pages of `limit`; without it from the newest page backwards.

        It gives pages rather than bars, so that each brings its gaps along.

        Example:
            async for page in marketd.iter_bars("crypto", "sim", "BTC/USD", "1d"):
                assert page.complete, page.gaps
                store(page.bars)
        """
        token: str | None = None
        while True:
            page = await self.ohlcv(
                market,
                provider,
                symbol,
                timeframe,
                since=since,
                before=before,
                limit=limit,
                page_token=token,
                fill=fill,
                params=params,
            )
            yield page
            token = page.next_page_token
            if token is None:
                return

    async def ticks(
        self,
        market: str,
        provider: str,
        symbol: str,
        *,
        since: Time | None = None,
        before: Time | None = None,
        limit: int = 500,
        page_token: str | None = None,
    ) -> Ticks:
        """The first `limit` trades from `since` on, or without it the last ones before `before` (now).

        Example:
            page = await marketd.ticks("crypto", "sim", "BTC/USD", limit=100)
        """
        question: dict[str, Time | None] = {
            "market": market,
            "provider": provider,
            "symbol": symbol,
            "since": since,
            "before": before,
            "limit": limit,
            "page_token": page_token,
        }
        body = await self._get("/api/v1/ticks", question)
        return Ticks(
            ticks=ticks_of(body["ticks"]),
            complete=body["complete"],
            gaps=[gap_of(symbol, gap) for gap in body["gaps"]],
            next_page_token=body["next_page_token"],
        )

    async def iter_ticks(
        self,
        market: str,
        provider: str,
        symbol: str,
        *,
        since: Time | None = None,
        before: Time | None = None,
        limit: int = 10_000,
    ) -> AsyncGenerator[Ticks, None]:
        """Every trade from `since` on, in pages of `limit`; without it from the newest page backwards.

        Example:
            async for page in marketd.iter_ticks("crypto", "sim", "BTC/USD", since=1709647200000):
                store(page.ticks)
        """
        token: str | None = None
        while True:
            page = await self.ticks(
                market, provider, symbol, since=since, before=before, limit=limit, page_token=token
            )
            yield page
            token = page.next_page_token
            if token is None:
                return

    async def gaps(
        self,
        market: str,
        provider: str,
        symbol: str,
        timeframe: str,
        *,
        since: Time | None = None,
        before: Time | None = None,
        params: Mapping[str, str] | None = None,
    ) -> list[Gap]:
        """What of a range is not proven to be whole, and why. No provider is asked for it.

        Example:
            gaps = await marketd.gaps("crypto", "sim", "BTC/USD", "1m", since="2024-01-01T00:00:00Z")
        """
        question: dict[str, Time | None] = {
            **(params or {}),
            "market": market,
            "provider": provider,
            "symbol": symbol,
            "timeframe": timeframe,
            "since": since,
            "before": before,
        }
        body = await self._get("/api/v1/gaps", question)
        return [gap_of(symbol, gap) for gap in body["gaps"]]

    async def refresh_aggregates(
        self,
        market: str | None = None,
        provider: str | None = None,
        symbol: str | None = None,
        timeframe: str | None = None,
        *,
        since: Time | None = None,
        before: Time | None = None,
    ) -> Refreshed:
        """Brings the bars that are computed ahead up to date: of the series so named, or of all.

        `timeframe` is that of the stored bars. What is not complete goes on if it is asked again.
        """
        question: dict[str, Time | None] = {
            "market": market,
            "provider": provider,
            "symbol": symbol,
            "timeframe": timeframe,
            "since": since,
            "before": before,
        }
        given = {key: time_text(value) for key, value in question.items() if value is not None}
        body = await self._ask("POST", "/api/v1/aggregates/refresh", json=given)
        return Refreshed(body["buckets"], body["complete"])

    async def begin_backfill(
        self,
        market: str,
        provider: str,
        symbol: str,
        timeframe: str,
        *,
        since: Time,
        before: Time | None = None,
        repair: bool = False,
        params: Mapping[str, str] | None = None,
    ) -> Backfill:
        """Has the daemon fetch what is not known from `since` up to `before` (now), the newest first.

        It goes on without the client, and after a restart. With `repair` what is stored is fetched too.

        Example:
            one = await marketd.begin_backfill("crypto", "sim", "BTC/USD", "1m", since=1_577_836_800_000)
            while not one.has_ended:
                await asyncio.sleep(1)
                one = await marketd.backfill(one.id)
        """
        wanted: dict[str, Any] = {
            "market": market,
            "provider": provider,
            "symbol": symbol,
            "timeframe": timeframe,
            "since": time_text(since),
            "repair": repair,
            "params": params or {},
        }
        if before is not None:
            wanted["before"] = time_text(before)
        return backfill_of(await self._ask("POST", _BACKFILLS, json=wanted))

    async def backfills(self) -> list[Backfill]:
        """Every backfill that the daemon keeps, the oldest first."""
        body = await self._get(_BACKFILLS, {})
        return list(map(backfill_of, body["backfills"]))

    async def backfill(self, backfill_id: str) -> Backfill:
        """How one stands."""
        return backfill_of(await self._get(f"{_BACKFILLS}/{backfill_id}", {}))

    async def cancel_backfill(self, backfill_id: str) -> Backfill:
        """Cancels one that has not ended, and forgets one that has; what it has stored stays."""
        return backfill_of(await self._ask("DELETE", f"{_BACKFILLS}/{backfill_id}"))

    async def pause_backfill(self, backfill_id: str) -> Backfill:
        """Stops one until it is resumed, also over a restart."""
        return backfill_of(await self._ask("POST", f"{_BACKFILLS}/{backfill_id}/pause"))

    async def resume_backfill(self, backfill_id: str) -> Backfill:
        """Goes on with one that is paused, failed or cancelled."""
        return backfill_of(await self._ask("POST", f"{_BACKFILLS}/{backfill_id}/resume"))

    def stream(
        self,
        market: str,
        provider: str,
        symbols: Sequence[str],
        timeframe: str,
        *,
        since: Time | None = None,
        params: Mapping[str, str] | None = None,
    ) -> AsyncGenerator[StreamEvent, None]:
        """The bars of `symbols` as they form and close, after those closed from `since` on; never ends.

        A lost connection is taken up again. What was revised meanwhile comes as BarUpdate, what closed
        as that or as a Snapshot: no closed bar is missed or told twice. Without `since`
        a symbol begins with the first bar that the daemon tells of it. Whatever is wrong before the
        first subscription is accepted is raised; later only what will not pass by itself.

        Example:
            async for event in marketd.stream("crypto", "sim", ["BTC/USD"], "1m"):
                match event:
                    case BarUpdate(symbol, bar, closed=True):
                        print(symbol, bar)
                    case Gap() | Status():
                        print(event)
        """
        names = {"market": market, "provider": provider, "params": params or {}}
        start = None if since is None else time_text(since)
        following = FollowingBars(symbols, names, timeframe=timeframe, since=start)
        return follow(self._session, self.url, following)

    def stream_ticks(
        self, market: str, provider: str, symbols: Sequence[str], *, since: Time | None = None
    ) -> AsyncGenerator[TickStreamEvent, None]:
        """The trades of `symbols` as they happen, after those stored from `since` on; never ends.

        A lost connection is taken up again, and what was traded meanwhile comes first: no trade is
        missed or told twice, but where a Gap says so. Errors are raised as by `stream`.

        Example:
            async for event in marketd.stream_ticks("crypto", "sim", ["BTC/USD"]):
                if isinstance(event, TickUpdate):
                    print(event.symbol, event.ticks)
        """
        names = {"market": market, "provider": provider}
        start = None if since is None else time_text(since)
        return follow(self._session, self.url, FollowingTicks(symbols, names, since=start))
