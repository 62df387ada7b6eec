"""The guard around a plugin: opened once, bounded, retried, and its health told once."""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import pytest
from scripted import MINUTE, START, M, ScriptedPlugin, StreamingPlugin, bar, provider_of, scripted

from marketd.domain.bar import Bar
from marketd.domain.errors import (
    InvalidInput,
    NotReady,
    ProviderFailed,
    ProviderRateLimited,
    ProviderTimeout,
    UnknownMarket,
    UnknownSymbol,
)
from marketd.domain.instrument import SymbolInfo
from marketd.domain.rate_limit import RateLimit
from marketd.domain.timeframe import Timeframe
from marketd.domain.timerange import TimeRange
from marketd.plugins.guard import Health, Turn

SPAN = TimeRange(START, START + 10 * M)
BARS = [bar(minute) for minute in range(10)]


class Closed(ScriptedPlugin):
    """Refuses to open until told otherwise."""

    refuses = True

    async def open(self) -> None:
        await super().open()
        if self.refuses:
            raise ProviderFailed("the key was refused.", transient=False)


class Symbols(ScriptedPlugin):
    """Counts and may fail its symbol list."""

    asked = 0
    fails = False

    async def get_symbols(self, market: str) -> Sequence[SymbolInfo]:
        self.asked += 1
        if self.fails:
            raise ProviderFailed("no symbols today.", transient=False)
        return [self.info, SymbolInfo("SPY", "us_equity")]


class Speechless(StreamingPlugin):
    """Fails to say what it has of a symbol, or says something else; see `odd`."""

    odd: Any = None

    def timeframes_of(self, symbol: str) -> Sequence[Timeframe]:
        return self.odd or super().timeframes_of(symbol)

    def streams_bars_of(self, symbol: str, timeframe: Timeframe) -> bool:
        raise KeyError(symbol)


async def test_a_plugin_that_does_not_know_what_it_has_of_a_symbol_is_a_failing_provider() -> None:
    plugin = scripted(BARS, now_ms=START + 10 * M, cls=Speechless)
    provider = provider_of(plugin)
    await provider.open()
    with pytest.raises(ProviderFailed, match="KeyError"):
        provider.streams_bars("SPY", MINUTE)
    assert provider.health.state == "down"
    for odd in (["1m"], 5):
        plugin.odd = odd
        with pytest.raises(ProviderFailed, match="TypeError"):
            provider.base_of("SPY", MINUTE)


@pytest.mark.parametrize(
    "listed",
    [
        None,
        "BTC/USD",
        {"BTC/USD": 1},
        ["BTC/USD"],
        [SymbolInfo("", "crypto")],
        [SymbolInfo("\ud800", "crypto")],
        [SymbolInfo(7, "crypto")],  # type: ignore[arg-type]
        [SymbolInfo("BTC/USD", "crypto", name=None)],  # type: ignore[arg-type]
        [SymbolInfo("BTC/USD", "crypto", first_ms=1.5)],  # type: ignore[arg-type]
    ],
)
async def test_what_is_no_list_of_symbols_is_the_provider_s_failure(listed: Any) -> None:
    class Wrong(ScriptedPlugin):
        async def get_symbols(self, market: str) -> Any:
            return listed

    provider = provider_of(scripted(BARS, now_ms=START + M, cls=Wrong))
    for _ in range(2):
        with pytest.raises(ProviderFailed, match="not symbols"):
            await provider.symbols("crypto")
    assert provider.health.state == "down"


async def test_of_the_symbols_listed_only_those_of_the_market_are_taken() -> None:
    provider = provider_of(scripted(BARS, now_ms=START + M, cls=Symbols))
    assert set(await provider.symbols("crypto")) == {"BTC/USD"}


async def test_it_opens_once_however_many_ask() -> None:
    plugin = scripted(BARS, now_ms=START + M)
    provider = provider_of(plugin)
    assert provider.health == Health("idle")
    await asyncio.gather(*(provider.symbols("crypto") for _ in range(10)), provider.open())
    assert plugin.opens == 1
    assert provider.health == Health("up")


async def test_a_provider_that_does_not_open_says_why_and_is_not_asked_again_at_once() -> None:
    plugin = scripted(BARS, now_ms=START + M, cls=Closed)
    provider = provider_of(plugin)
    with pytest.raises(ProviderFailed, match="key was refused"):
        await provider.open()
    with pytest.raises(NotReady, match="key was refused"):
        await provider.fetch("BTC/USD", MINUTE, SPAN, {})
    assert plugin.opens == 1
    assert provider.health == Health("down", "the key was refused.")


async def test_no_more_intervals_are_asked_for_than_one_page_may_span() -> None:
    plugin = scripted([], now_ms=START + 60 * M)
    plugin.page_intervals = 4
    provider = provider_of(plugin)
    fetched = await provider.fetch("BTC/USD", MINUTE, SPAN, {})
    assert plugin.calls == [TimeRange(START, START + 4 * M)]
    # Nothing is said of the rest: it is to be asked for next.
    assert fetched.end_ms == START + 4 * M
    await provider.fetch("BTC/USD", MINUTE, TimeRange(START, START + 3 * M), {})
    assert plugin.calls[-1] == TimeRange(START, START + 3 * M)


async def test_a_call_that_hangs_is_a_timeout() -> None:
    plugin = scripted(BARS, now_ms=START + M)

    async def hang() -> list[Bar]:
        await asyncio.Event().wait()
        return []

    plugin.answers = [lambda _: hang()]
    with pytest.raises(ProviderTimeout, match=r"within 0\.05 s"):
        await provider_of(plugin, timeout_ms=50).fetch("BTC/USD", MINUTE, SPAN, {})


async def test_a_caller_that_is_cancelled_ends_though_the_plugin_loses_that() -> None:
    plugin = scripted(BARS, now_ms=START + M)
    asked = asyncio.Event()

    async def lose() -> list[Bar]:
        asked.set()
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        return []

    plugin.answers = [lambda _: lose()]
    caller = asyncio.create_task(provider_of(plugin).fetch("BTC/USD", MINUTE, SPAN, {}))
    await asked.wait()
    caller.cancel()
    await asyncio.wait([caller])
    assert caller.cancelled()


async def test_a_foreign_exception_is_told_by_its_kind_alone() -> None:
    plugin = scripted(BARS, now_ms=START + M)

    def fail(_: Sequence[Bar]) -> None:
        raise ValueError("https://vendor/?apikey=secret")

    plugin.answers = [fail]
    with pytest.raises(ProviderFailed) as failure:
        await provider_of(plugin).fetch("BTC/USD", MINUTE, SPAN, {})
    assert failure.value.message == "test failed with ValueError."
    assert not failure.value.transient


async def test_transient_failures_are_retried_as_often_as_said_and_permanent_ones_never() -> None:
    for transient, retries, calls in ((True, 0, 1), (True, 2, 3), (False, 2, 1)):
        plugin = scripted(BARS, now_ms=START + M)

        def fail(_: Sequence[Bar], transient: bool = transient) -> None:
            raise ProviderFailed("no.", transient=transient)

        plugin.answers = [fail] * 10
        with pytest.raises(ProviderFailed):
            await provider_of(plugin, retries=retries).fetch("BTC/USD", MINUTE, SPAN, {})
        assert len(plugin.calls) == calls


async def test_a_long_retry_after_is_handed_on_instead_of_waited_for() -> None:
    plugin = scripted(BARS, now_ms=START + M)

    def busy(_: Sequence[Bar]) -> None:
        raise ProviderRateLimited("busy.", retry_after_s=3600)

    plugin.answers = [busy]
    with pytest.raises(ProviderRateLimited) as failure:
        await provider_of(plugin, retries=3).fetch("BTC/USD", MINUTE, SPAN, {})
    assert math.ceil(failure.value.retry_after_s or 0) == 3600
    assert len(plugin.calls) == 1


async def test_health_is_logged_once_when_it_goes_and_once_when_it_comes_back(
    caplog: pytest.LogCaptureFixture,
) -> None:
    plugin = scripted(BARS, now_ms=START + M)
    provider = provider_of(plugin)
    await provider.open()
    caplog.clear()

    def fail(_: Sequence[Bar]) -> None:
        raise ProviderFailed("no.", transient=False)

    with caplog.at_level(logging.INFO):
        for answer in (fail, fail, None, None):
            plugin.answers = [answer] if answer else []
            try:
                await provider.fetch("BTC/USD", MINUTE, SPAN, {})
            except ProviderFailed:
                assert provider.health == Health("down", "no.")
    assert [record.levelname for record in caplog.records] == ["WARNING", "INFO"]
    assert provider.health == Health("up")


async def test_calls_at_once_are_bounded_by_the_plugin_s_word() -> None:
    plugin = scripted(BARS, now_ms=START + M)
    under_way = most = 0

    async def slow(page: Sequence[Bar]) -> Sequence[Bar]:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0.01)
        under_way -= 1
        return page

    plugin.answers = [slow] * 20
    provider = provider_of(plugin)
    await asyncio.gather(*(provider.fetch("BTC/USD", MINUTE, SPAN, {}) for _ in range(20)))
    assert most == plugin.concurrency


async def test_symbols_are_kept_and_served_stale_while_the_provider_fails() -> None:
    plugin = scripted(BARS, now_ms=START, cls=Symbols)
    assert isinstance(plugin, Symbols)
    provider = provider_of(plugin, symbols_ttl_ms=1)
    assert list(await provider.symbols("crypto")) == ["BTC/USD"]
    await asyncio.sleep(0.002)
    plugin.fails = True
    assert list(await provider.symbols("crypto")) == ["BTC/USD"]
    while provider.health.state != "down":  # noqa: ASYNC110 - a state has no event
        await asyncio.sleep(0)
    assert list(await provider.symbols("crypto")) == ["BTC/USD"]
    with pytest.raises(UnknownMarket):
        await provider.symbols("forex")
    with pytest.raises(UnknownSymbol):
        await provider.symbol("crypto", "SPY")


async def test_symbols_are_asked_for_once_within_their_ttl() -> None:
    plugin = scripted(BARS, now_ms=START, cls=Symbols)
    assert isinstance(plugin, Symbols)
    provider = provider_of(plugin)
    await asyncio.gather(*(provider.symbol("crypto", "BTC/USD") for _ in range(10)))
    assert plugin.asked == 1


def test_params_are_validated_by_the_plugin_s_schema() -> None:
    provider = provider_of(scripted(BARS, now_ms=START))
    assert provider.load_params({"adjustment": "raw"}) == {"adjustment": "raw"}
    with pytest.raises(InvalidInput, match="test takes adjustment") as refused:
        provider.load_params({"adjust": "raw"})
    assert refused.value.field == "adjust"


def test_features_are_what_the_class_implements() -> None:
    assert provider_of(scripted(BARS, now_ms=START)).features == []
    assert provider_of(scripted(BARS, now_ms=START, cls=StreamingPlugin)).features == ["bar_stream"]


async def test_a_refused_bar_is_counted_by_reason_and_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    wrong = [(START + m * M, 1.0, 0.5, 2.0, 1.0, 1.0) for m in range(5)]
    plugin = scripted(wrong, now_ms=START + 10 * M)
    provider = provider_of(plugin)
    for _ in range(2):
        fetched = await provider.fetch("BTC/USD", MINUTE, SPAN, {})
        assert fetched.bars == []
        assert fetched.refused == [TimeRange(START, START + 5 * M)]
    assert sum("bar refused" in record.getMessage() for record in caplog.records) == 1


async def test_a_full_page_proves_no_more_than_it_holds() -> None:
    bars = [bar(minute) for minute in range(200)]
    plugin = scripted(bars, now_ms=START + 300 * M)
    fetched = await provider_of(plugin).fetch("BTC/USD", MINUTE, TimeRange(START, START + 200 * M), {})
    assert fetched.bars == bars[:100]
    assert fetched.end_ms == START + 100 * M


class Limited(ScriptedPlugin):
    """Allows a call every 50 ms."""

    rate_limit = RateLimit(requests=20, per_ms=1_000)
    page_cost = 2


async def test_every_call_and_retry_takes_its_turn_and_weighs_what_the_plugin_says() -> None:
    plugin = scripted(BARS, now_ms=START + M, cls=Limited)
    provider, loop = provider_of(plugin, retries=1), asyncio.get_running_loop()

    def fail(_: Sequence[Bar]) -> None:
        raise ProviderFailed("no.")

    plugin.answers = [fail]
    begun_s = loop.time()
    await provider.fetch("BTC/USD", MINUTE, SPAN, {})
    assert len(plugin.calls) == 2
    # After the opening: 1 + 2 + 2 units, of which only the last two had to be waited for in full.
    assert 0.14 < loop.time() - begun_s < 1


async def test_no_call_is_made_when_its_turn_would_come_too_late() -> None:
    plugin = scripted(BARS, now_ms=START + M, cls=Limited)
    provider, loop = provider_of(plugin), asyncio.get_running_loop()
    await provider.fetch("BTC/USD", MINUTE, SPAN, {})
    begun_s = loop.time()
    with pytest.raises(ProviderRateLimited) as refused:
        await provider.fetch("BTC/USD", MINUTE, SPAN, {}, Turn(begun_s + 0.01))
    assert loop.time() - begun_s < 0.05
    assert 0 < (refused.value.retry_after_s or 0) < 0.2
    assert len(plugin.calls) == 1
    assert provider.health == Health("up")


async def test_a_429_stops_every_call_with_that_key_until_its_time_has_come() -> None:
    plugin = scripted(BARS, now_ms=START + M)
    provider, loop = provider_of(plugin, retries=1), asyncio.get_running_loop()
    await provider.open()

    def busy(_: Sequence[Bar]) -> None:
        raise ProviderRateLimited("busy.", retry_after_s=0.2)

    plugin.answers = [busy]
    begun_s = loop.time()
    first = asyncio.create_task(provider.fetch("BTC/USD", MINUTE, SPAN, {}))
    while not plugin.calls:  # noqa: ASYNC110 - a list has no event
        await asyncio.sleep(0)
    await asyncio.sleep(0)
    await asyncio.gather(first, *(provider.fetch("BTC/USD", MINUTE, SPAN, {}) for _ in range(3)))
    assert loop.time() - begun_s >= 0.2
    assert len(plugin.calls) == 5


async def test_background_calls_leave_one_to_whoever_waits_for_an_answer() -> None:
    plugin = scripted(BARS, now_ms=START + M)
    provider, stop = provider_of(plugin), asyncio.Event()

    async def hang(page: Sequence[Bar]) -> Sequence[Bar]:
        await stop.wait()
        return page

    plugin.answers = [hang] * (plugin.concurrency - 1)
    background = [
        asyncio.create_task(provider.fetch("BTC/USD", MINUTE, SPAN, {}, Turn(background=True)))
        for _ in range(10)
    ]
    while len(plugin.calls) < plugin.concurrency - 1:  # noqa: ASYNC110 - a list has no event
        await asyncio.sleep(0)
    async with asyncio.timeout(1):
        assert (await provider.fetch("BTC/USD", MINUTE, SPAN, {})).bars
    assert len(plugin.calls) == plugin.concurrency
    stop.set()
    await asyncio.gather(*background)
