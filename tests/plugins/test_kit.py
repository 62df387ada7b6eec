"""The conformance kit: our plugins pass it, and for each check there is a plugin that fails it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, ClassVar

import pytest
from honest import SECOND, START, Honest, S

from marketd.clock import SystemClock
from marketd.domain.bar import Bar, Tick
from marketd.domain.errors import ProviderFailed, UnknownSymbol
from marketd.domain.instrument import SymbolInfo
from marketd.domain.timeframe import Timeframe
from marketd.domain.timerange import TimeRange
from marketd.plugins import BarUpdate, MarketPlugin, PluginContext
from marketd.plugins.replay import ReplayPlugin
from marketd.plugins.sim import SimPlugin
from marketd.plugins.testing import ProviderKit


class HonestKit(ProviderKit):
    plugin_class = Honest
    credentials: ClassVar[Mapping[str, Any]] = {}
    market = "crypto"
    symbol = "Btc/usd"
    timeframe = "1s"
    since = START + 10 * S
    before = "2024-03-05T14:00:20Z"
    stream_timeframe = "1s"
    patience_s = 0.5

    async def disconnect(self, plugin: MarketPlugin) -> bool:
        assert isinstance(plugin, Honest)
        plugin.cut.set()
        return True

    def failures(self) -> Mapping[str, Callable[[], AbstractAsyncContextManager[MarketPlugin]]]:
        @asynccontextmanager
        async def closed() -> AsyncIterator[MarketPlugin]:
            raise ProviderFailed("The vendor is closed.")
            yield self.make()

        return {"closed": closed}


class TestHonest(HonestKit):
    patience_s = 10.0


class TestSim(ProviderKit):
    plugin_class = SimPlugin
    settings: ClassVar[Mapping[str, Any]] = {"seed": 1, "speed": 20}
    market = "crypto"
    symbol = "BTC/USD"
    timeframe = "1s"
    since = "2024-03-05T14:00:00Z"
    before = "2024-03-05T14:05:00Z"
    stream_timeframe = "1s"


class TestReplay(ProviderKit):
    plugin_class = ReplayPlugin
    market = "us_equity"
    symbol = "SPY"
    since = START
    before = START + 60 * 60 * S
    recording = tuple((START + i * 60 * S, 5.0, 6.0 + i, 4.0, 5.5, 10.0) for i in range(60))

    @pytest.fixture(autouse=True)
    def folder(self, tmp_path: Path) -> None:
        rows = [(START + i * 60 * S, 5.0, 6.0 + i, 4.0, 5.5, 10.0) for i in range(5_000)]
        lines = ["timestamp_ms,open,high,low,close,volume", *(",".join(map(str, row)) for row in rows)]
        (tmp_path / "SPY_1m.csv").write_text("\n".join(lines), encoding="utf-8")
        settings = {"market": self.market, "start": "2024-03-05T18:00:00Z", "speed": 600}
        type(self).settings = {"path": str(tmp_path), **settings}

    def failures(self) -> Mapping[str, Callable[[], AbstractAsyncContextManager[MarketPlugin]]]:
        @asynccontextmanager
        async def gone() -> AsyncIterator[MarketPlugin]:
            type(self).settings = {**self.settings, "path": "/nowhere/at/all"}
            async with self.provider() as plugin:
                yield plugin

        return {"no folder": gone}


class Wrong(Honest):
    """Fetches through `page`, which the children get wrong."""

    async def fetch_ohlcv(
        self,
        symbol: str,
        timeframe: Timeframe,
        since: int,
        before: int,
        limit: int,
        params: Mapping[str, Any],
    ) -> Sequence[Bar]:
        return await self.page(symbol, since, before, limit)

    async def page(self, symbol: str, since: int, before: int, limit: int) -> Sequence[Bar]:
        return await super().fetch_ohlcv(symbol, SECOND, since, before, limit, {})


class TellsASymbolTwice(Honest):
    async def get_symbols(self, market: str) -> Sequence[SymbolInfo]:
        return 2 * list(await super().get_symbols(market))


class UppercasesSymbols(Wrong):
    async def find(self, symbol: str) -> None:
        if symbol.upper() not in ("BTC/USD", "ETH/USD"):
            raise UnknownSymbol(f"There is no symbol {symbol}.")


class DeclaresOtherTimeframes(Honest):
    def timeframes_of(self, symbol: str) -> Sequence[Timeframe]:
        return (Timeframe.parse("1m"),)


class NewestFirst(Wrong):
    async def page(self, symbol: str, since: int, before: int, limit: int) -> Sequence[Bar]:
        return list(await super().page(symbol, since, before, limit))[::-1]


class RollsDice(Wrong):
    asked = 0

    async def page(self, symbol: str, since: int, before: int, limit: int) -> Sequence[Bar]:
        self.asked += 1
        bars = await super().page(symbol, since, before, limit)
        return [(*bar[:5], float(self.asked)) for bar in bars]


class RoundsSinceDown(Wrong):
    async def page(self, symbol: str, since: int, before: int, limit: int) -> Sequence[Bar]:
        return await super().page(symbol, SECOND.floor(since), before, limit)


class TakesBeforeIn(Wrong):
    async def page(self, symbol: str, since: int, before: int, limit: int) -> Sequence[Bar]:
        return await super().page(symbol, since, before + 1, limit)


class RepeatsTheLastBar(Wrong):
    async def page(self, symbol: str, since: int, before: int, limit: int) -> Sequence[Bar]:
        bars = await super().page(symbol, since, before, limit)
        return bars or await super().page(symbol, SECOND.floor(since), SECOND.ceil(since) + 1, 1)


class KeepsTheLastBars(Wrong):
    async def page(self, symbol: str, since: int, before: int, limit: int) -> Sequence[Bar]:
        return (await super().page(symbol, since, before, 1_000))[-limit:]


class HoldsBack(Wrong):
    """Its vendor gives five bars a page, and it does not ask for the next."""

    async def page(self, symbol: str, since: int, before: int, limit: int) -> Sequence[Bar]:
        return await super().page(symbol, since, before, min(limit, 5))


class IgnoresTheLimit(Wrong):
    page_limit = 20

    async def page(self, symbol: str, since: int, before: int, limit: int) -> Sequence[Bar]:
        return await super().page(symbol, since, before, 1_000)


class MakesBarsOfTheRange(Wrong):
    async def page(self, symbol: str, since: int, before: int, limit: int) -> Sequence[Bar]:
        bars = await super().page(symbol, since, before, limit)
        return [(*bar[:5], 0.5 if before - bar[0] < S else 1.0) for bar in bars]


class KnowsTheFuture(Wrong):
    async def page(self, symbol: str, since: int, before: int, limit: int) -> Sequence[Bar]:
        times = range(max(START, SECOND.ceil(since)), before, S)
        return [self.bar(t_ms) for t_ms in times[:limit]]


class CannotBeCancelled(Wrong):
    async def page(self, symbol: str, since: int, before: int, limit: int) -> Sequence[Bar]:
        try:
            return await super().page(symbol, since, before, limit)
        except asyncio.CancelledError:
            return []


class RaisesItsOwnErrors(Wrong):
    async def page(self, symbol: str, since: int, before: int, limit: int) -> Sequence[Bar]:
        try:
            return await super().page(symbol, since, before, limit)
        except UnknownSymbol:
            raise KeyError(symbol) from None


class NeedsToBeOpen(Honest):
    async def open(self) -> None:
        self.session = "open"

    async def close(self) -> None:
        self.session += " and closed"


class ClosesTwice(Honest):
    async def stream_bars(self, symbol: str, timeframe: Timeframe) -> AsyncIterator[BarUpdate]:
        async for update in super().stream_bars(symbol, timeframe):
            yield update
            if update.closed:
                yield update


class ClosesWhatIsNotWhole(Honest):
    async def stream_bars(self, symbol: str, timeframe: Timeframe) -> AsyncIterator[BarUpdate]:
        async for bar, closed in super().stream_bars(symbol, timeframe):
            yield BarUpdate((*bar[:5], 0.5), closed)


class EndsSilently(Honest):
    async def stream_bars(self, symbol: str, timeframe: Timeframe) -> AsyncIterator[BarUpdate]:
        try:
            async for update in super().stream_bars(symbol, timeframe):
                yield update
        except ProviderFailed:
            return


class GoesOnStreaming(Honest):
    async def stream_bars(self, symbol: str, timeframe: Timeframe) -> AsyncIterator[BarUpdate]:
        try:
            async for update in super().stream_bars(symbol, timeframe):
                yield update
        except asyncio.CancelledError:
            return


class TellsTradesOutOfOrder(Honest):
    async def stream_ticks(self, symbol: str) -> AsyncIterator[Sequence[Tick]]:
        async for batch in super().stream_ticks(symbol):
            yield [*batch, (batch[0][0] - 1, 1.0, 1.0, "sell", "")]


class CorrectsItself(Honest):
    """Closes a bar with a late trade missing, and tells it again with that."""

    async def stream_bars(self, symbol: str, timeframe: Timeframe) -> AsyncIterator[BarUpdate]:
        async for bar, closed in super().stream_bars(symbol, timeframe):
            yield BarUpdate((*bar[:5], 0.5), closed)
            if closed:
                yield BarUpdate(bar, closed=True)


class KnowsNoEndOfTrades(Honest):
    async def fetch_ticks(self, symbol: str, since: int, before: int, limit: int) -> Sequence[Tick]:
        return await super().fetch_ticks(symbol, since, before + S, limit)


class ForgetsTradesWithoutAnId(Honest):
    async def fetch_ticks(self, symbol: str, since: int, before: int, limit: int) -> Sequence[Tick]:
        return [tick for tick in await super().fetch_ticks(symbol, since, before, 2 * limit) if tick[4]][
            :limit
        ]


class TellsHoursBackwards(Wrong):
    def closed(self, symbol: str, since: int, before: int) -> Sequence[TimeRange]:
        return super().closed(symbol, since, before)[::-1]


class ClosesWhileItTrades(Wrong):
    def closed(self, symbol: str, since: int, before: int) -> Sequence[TimeRange]:
        return [] if since == before else [TimeRange(since, before)]


class KnowsNoShortPause(Wrong):
    def closed(self, symbol: str, since: int, before: int) -> Sequence[TimeRange]:
        return super().closed(symbol, since, before) if before - since > 5 * 86_400_000 else []


class HasNoPlaceForACall(Wrong):
    concurrency = 0


WRONG: dict[str, type[Honest]] = {
    "every_symbol_is_told_once_and_in_its_market": TellsASymbolTwice,
    "a_symbol_is_spelt_in_one_way": UppercasesSymbols,
    "the_timeframe_is_one_that_it_declares": DeclaresOtherTimeframes,
    "bars_ascend": NewestFirst,
    "bars_are_those_of_the_recording": RollsDice,
    "since_is_honoured": RoundsSinceDown,
    "before_is_honoured_and_is_exclusive": TakesBeforeIn,
    "an_empty_range_has_no_bar": RepeatsTheLastBar,
    "the_limit_keeps_the_first_bars": KeepsTheLastBars,
    "fewer_bars_than_the_limit_are_all_there_are": HoldsBack,
    "a_page_is_no_longer_than_the_page_limit": IgnoresTheLimit,
    "its_limits_are_some": HasNoPlaceForACall,
    "a_bar_is_the_same_in_any_range": MakesBarsOfTheRange,
    "the_newest_bar_is_the_forming_one_at_the_latest": KnowsTheFuture,
    "a_call_can_be_cancelled": CannotBeCancelled,
    "what_fails_is_told_as_an_error_of_marketd": RaisesItsOwnErrors,
    "it_can_be_closed_without_having_been_opened": NeedsToBeOpen,
    "stream_of_bars_ascends_and_each_closes_once": ClosesTwice,
    "stream_and_history_agree": ClosesWhatIsNotWhole,
    "stream_of_bars_begins_anew": EndsSilently,
    "stream_of_bars_can_be_cancelled": GoesOnStreaming,
    "hours_are_ranges_that_ascend_within_what_was_asked": TellsHoursBackwards,
    "hours_are_open_where_there_are_bars": ClosesWhileItTrades,
    "hours_are_the_same_however_they_are_asked_for": KnowsNoShortPause,
    "ticks_ascend_and_are_trades": TellsTradesOutOfOrder,
    "past_ticks_keep_to_range_and_limit": KnowsNoEndOfTrades,
    "past_ticks_hold_what_the_stream_told": ForgetsTradesWithoutAnId,
}


def checks(kit: type[ProviderKit]) -> set[str]:
    return {name.removeprefix("test_") for name in dir(kit) if callable(getattr(kit, name, None))} & {
        name.removeprefix("test_") for name in dir(ProviderKit) if name.startswith("test_")
    }


def test_there_is_a_wrong_plugin_for_every_check() -> None:
    assert set(WRONG) == checks(HonestKit)


@pytest.mark.parametrize("check", WRONG)
def test_a_plugin_that_gets_it_wrong_fails_the_check(check: str) -> None:
    class Kit(HonestKit):
        plugin_class = WRONG[check]

    with pytest.raises(AssertionError):
        getattr(Kit(), f"test_{check}")()


@pytest.mark.parametrize("cls", WRONG.values())
def test_a_plugin_that_gets_one_thing_wrong_passes_most_checks(cls: type[Honest]) -> None:
    """So that a check fails for its own reason."""

    class Kit(HonestKit):
        plugin_class = cls

    failed = set()
    for check in checks(Kit):
        try:
            getattr(Kit(), f"test_{check}")()
        except AssertionError:
            failed.add(check)
    assert 1 <= len(failed) <= 9, failed


def test_a_correction_of_a_closed_bar_is_nothing_wrong() -> None:
    class Kit(HonestKit):
        plugin_class = CorrectsItself

    for check in checks(Kit):
        getattr(Kit(), f"test_{check}")()


def test_a_provider_without_streams_is_not_held_to_them() -> None:
    class Plain(MarketPlugin):
        plugin = "plain"

    class Kit(ProviderKit):
        plugin_class = Plain

    assert not any(name.startswith(("stream", "ticks", "past", "hours")) for name in checks(Kit))
    assert "bars_ascend" in checks(Kit)


def test_a_failure_that_tells_a_secret_is_caught() -> None:
    class Kit(HonestKit):
        credentials: ClassVar[Mapping[str, Any]] = {"key": "hush-hush"}

        def make(self) -> MarketPlugin:
            return Honest(PluginContext("kit", SystemClock()))

        def failures(self) -> Mapping[str, Callable[[], AbstractAsyncContextManager[MarketPlugin]]]:
            @asynccontextmanager
            async def talking() -> AsyncIterator[MarketPlugin]:
                raise ProviderFailed("https://vendor/?key=hush-hush failed.")
                yield self.make()

            return {"talking": talking}

    with pytest.raises(AssertionError, match="secret"):
        Kit().test_what_fails_is_told_as_an_error_of_marketd()
