"""The class that a plugin author derives from, with the checks of symbols and history."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from marketd.domain.bar import Bar
from marketd.domain.errors import MarketdError, UnknownSymbol
from marketd.domain.instrument import SymbolInfo
from marketd.domain.rate_limit import RateLimit
from marketd.domain.timerange import MAX_MS
from marketd.plugins.base import BarStreams, MarketHours, MarketPlugin, TickHistory, TickStreams
from marketd.plugins.testing.base import raising
from marketd.plugins.testing.hours import HoursChecks
from marketd.plugins.testing.ticks import TickChecks

# What the names of the checks begin with that are for one of them alone.
_CAPABILITIES: Mapping[str, type] = {
    "stream": BarStreams,
    "ticks": TickStreams,
    "past_ticks": TickHistory,
    "hours": MarketHours,
}


class ProviderKit(TickChecks, HoursChecks):
    """Derive a class whose name begins with `Test`, and pytest runs every check on your provider.

    Class attributes:
        plugin_class: the provider.
        settings, credentials, params: as a user writes them; the schemas of the class read them.
        market, symbol, timeframe: a series that it has.
        since, before: a range of that series, at least six closed bars and at most a page: epoch
            milliseconds or RFC 3339.
        recording: the bars of that range, if they are known.
        stream_timeframe: what the streams are checked with, best one whose bars close often.
        patience_s: how long one check may take.

    The methods `provider`, `failures`, `live` and `disconnect` may be overridden. Checks of a capability
    are there only if the class has it. No check needs a plugin of pytest.
    """

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        plugin_class = getattr(cls, "plugin_class", MarketPlugin)
        for capability, kind in _CAPABILITIES.items():
            for name in dir(cls):
                if name.startswith(f"test_{capability}_") and not issubclass(plugin_class, kind):
                    setattr(cls, name, None)

    def test_every_symbol_is_told_once_and_in_its_market(self) -> None:
        async def check(plugin: MarketPlugin) -> None:
            assert self.market in plugin.markets, f"{self.market} is not among its markets"
            for market in plugin.markets:
                infos = await plugin.get_symbols(market)
                assert all(isinstance(info, SymbolInfo) for info in infos), "SymbolInfo is wanted"
                wrong = [info.symbol for info in infos if info.market != market]
                assert not wrong, f"asked for {market}, it told {wrong[:3]} of another"
                symbols = [info.symbol for info in infos]
                assert len(symbols) == len(set(symbols)), f"a symbol of {market} is told twice"
                if market == self.market:
                    assert self.symbol in symbols, f"{self.symbol} is not told as it is spelt"

        self.run(check)

    def test_a_symbol_is_spelt_in_one_way(self) -> None:
        """Symbols are opaque: another spelling is another symbol, here one that does not exist."""

        async def check(plugin: MarketPlugin) -> None:
            told = {info.symbol for info in await plugin.get_symbols(self.market)}
            other = self.symbol.swapcase()
            for symbol in {other, f" {self.symbol}"} - told:
                with raising(UnknownSymbol):
                    await plugin.fetch_ohlcv(
                        symbol, self.base, self.since_ms, self.before_ms, 10, self.loaded_params
                    )

        self.run(check)

    def test_the_timeframe_is_one_that_it_declares(self) -> None:
        async def check(plugin: MarketPlugin) -> None:
            assert self.base in plugin.timeframes_of(self.symbol), f"{self.base} is not declared"

        self.run(check)

    def test_bars_ascend(self) -> None:
        async def check(plugin: MarketPlugin) -> None:
            times = [bar[0] for bar in await self.known(plugin)]
            assert times == sorted(set(times)), "the bars do not ascend, each time once"

        self.run(check)

    def test_bars_are_those_of_the_recording(self) -> None:
        """Or, where there is none, the same bars whenever they are asked for."""

        async def check(plugin: MarketPlugin) -> None:
            expected = self.recording
            if expected is None:
                expected = await self.known(plugin)
            assert list(await self.known(plugin)) == list(expected), "these are not the known bars"

        self.run(check)

    def test_since_is_honoured(self) -> None:
        async def check(plugin: MarketPlugin) -> None:
            bars = await self.known(plugin)
            assert _same(await self.fetch(plugin, bars[2][0], self.before_ms), bars[2:])
            later = await self.fetch(plugin, bars[2][0] + 1, self.before_ms)
            assert _same(later, bars[3:]), "a bar that opens before since is not asked for"

        self.run(check)

    def test_before_is_honoured_and_is_exclusive(self) -> None:
        async def check(plugin: MarketPlugin) -> None:
            bars = await self.known(plugin)
            assert _same(await self.fetch(plugin, self.since_ms, bars[4][0]), bars[:4])
            assert _same(await self.fetch(plugin, self.since_ms, bars[4][0] + 1), bars[:5])

        self.run(check)

    def test_an_empty_range_has_no_bar(self) -> None:
        async def check(plugin: MarketPlugin) -> None:
            bars = await self.known(plugin)
            empty = [(bars[0][0], bars[0][0]), (bars[0][0] + 1, self.base.end(bars[0][0]) - 1)]
            now_ms = plugin.clock.now_ms()
            empty.append((self.base.end(now_ms + 10 * self.base.nominal_ms), MAX_MS))
            for since_ms, before_ms in empty:
                found = await self.fetch(plugin, since_ms, before_ms)
                assert not found, f"[{since_ms}, {before_ms}) holds no bar, but {found[0]!r} came"

        self.run(check)

    def test_the_limit_keeps_the_first_bars(self) -> None:
        async def check(plugin: MarketPlugin) -> None:
            bars = await self.known(plugin)
            for limit in (1, 4):
                page = await self.fetch(plugin, self.since_ms, self.before_ms, limit)
                assert _same(page, bars[:limit])

        self.run(check)

    def test_fewer_bars_than_the_limit_are_all_there_are(self) -> None:
        """Pages of any size, put together, are the whole."""

        async def check(plugin: MarketPlugin) -> None:
            bars = await self.known(plugin)
            for limit in (2, len(bars) - 1):
                pages: list[Bar] = []
                cursor_ms = self.since_ms
                while True:
                    page = await self.fetch(plugin, cursor_ms, self.before_ms, limit)
                    pages += page
                    if len(page) < limit:
                        break
                    cursor_ms = self.base.end(page[-1][0])
                assert _same(pages, bars)

        self.run(check)

    def test_a_page_is_no_longer_than_the_page_limit(self) -> None:
        async def check(plugin: MarketPlugin) -> None:
            assert plugin.page_limit >= 1, "page_limit has to be positive"
            page = await self.fetch(plugin, self.since_ms, plugin.clock.now_ms())
            assert len(page) <= plugin.page_limit, "the page is longer than page_limit"

        self.run(check)

    def test_its_limits_are_some(self) -> None:
        """What marketd keeps to: how often, and how many calls at once."""

        async def check(plugin: MarketPlugin) -> None:
            rate = plugin.rate_limit
            assert rate is None or isinstance(rate, RateLimit), "rate_limit has to be a RateLimit"
            assert plugin.concurrency >= 1, "concurrency has to be positive"
            assert min(plugin.page_cost, plugin.symbols_cost) >= 1, "a call costs one at the least"

        self.run(check)

    def test_a_bar_is_the_same_in_any_range(self) -> None:
        """A closed bar is whole: never made of what happens to lie in the range."""

        async def check(plugin: MarketPlugin) -> None:
            for bar in (await self.known(plugin))[:3]:
                alone = await self.fetch(plugin, bar[0], bar[0] + 1)
                assert _same(alone, [bar])

        self.run(check)

    def test_the_newest_bar_is_the_forming_one_at_the_latest(self) -> None:
        async def check(plugin: MarketPlugin) -> None:
            now_ms = plugin.clock.now_ms()
            since_ms = self.base.floor(now_ms - 5 * self.base.nominal_ms)
            bars = await self.fetch(plugin, since_ms, now_ms + 100 * self.base.nominal_ms)
            present_ms = plugin.clock.now_ms()
            future = [bar for bar in bars if bar[0] > present_ms]
            assert not future, f"the bar {future[:1]!r} opens after its clock's present"

        self.run(check)

    def test_a_call_can_be_cancelled(self) -> None:
        async def check(plugin: MarketPlugin) -> None:
            bars = await self.known(plugin)
            for steps in (1, 2, 4):
                call = asyncio.ensure_future(self.fetch(plugin, self.since_ms, self.before_ms))
                for _ in range(steps):
                    await asyncio.sleep(0)
                call.cancel()
                await asyncio.wait([call])
                # One that was done already has its answer; none may make another one up.
                assert call.cancelled() or _same(call.result(), bars)
            assert _same(await self.known(plugin), bars), "after a cancelled call it answers otherwise"

        self.run(check)

    def test_what_fails_is_told_as_an_error_of_marketd(self) -> None:
        async def check(plugin: MarketPlugin) -> None:
            with raising(UnknownSymbol):
                await plugin.fetch_ohlcv(
                    "no such symbol", self.base, self.since_ms, self.before_ms, 10, self.loaded_params
                )

        async def failing(name: str) -> None:
            with raising(MarketdError) as told:
                async with asyncio.timeout(self.patience_s), self.failures()[name]() as plugin:
                    await self.fetch(plugin, self.since_ms, self.before_ms)
            secrets = [value for value in map(str, self.credentials.values()) if value]
            assert not any(secret in told[0].message for secret in secrets), "it tells a secret"

        self.run(check)
        for name in self.failures():
            asyncio.run(failing(name))

    def test_it_can_be_closed_without_having_been_opened(self) -> None:
        async def close() -> None:
            try:
                await self.make().close()
            except Exception as error:
                raise AssertionError(f"close raised {type(error).__name__}") from error

        asyncio.run(close())


def _same(found: Sequence[Bar], expected: Sequence[Bar]) -> bool:
    assert list(found) == list(expected), (
        f"{len(expected)} bars from {expected[0][0] if expected else '-'} were expected, "
        f"{len(found)} from {found[0][0] if found else '-'} came"
    )
    return True
