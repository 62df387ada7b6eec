"""An exchange as the core sees it: markets, symbols, pages, errors, streams."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from marketd_ccxt.plugin import CcxtPlugin
from marketd_ccxt.settings import CcxtCredentials, CcxtSettings
from marshmallow import ValidationError
from standin import NOW, Exchange, made, opened, refusing

from marketd.cli.running import load_plugins
from marketd.clock import ManualClock
from marketd.config import load_config
from marketd.domain.bar import Bar
from marketd.domain.errors import (
    HistoryEnds,
    MarketdError,
    NotReady,
    ProviderFailed,
    ProviderRateLimited,
    UnknownSymbol,
)
from marketd.domain.timeframe import Timeframe
from marketd.plugins import BarUpdate, PluginContext, RateLimit

M = 60_000
MINUTE = Timeframe.parse("1m")
SECRET = "c2VjcmV0"


async def fetch(plugin: CcxtPlugin, since: int, before: int, limit: int = 500) -> Sequence[Bar]:
    return await plugin.fetch_ohlcv("BTC/USDT", MINUTE, since, before, limit, {})


async def test_bars_are_the_exchange_s_to_the_last_digit(exchange: Exchange, clock: ManualClock) -> None:
    async with opened(exchange, clock) as plugin:
        bars = await fetch(plugin, NOW - 60 * M, NOW + M)
    assert bars == await exchange.history("1m", NOW - 60 * M, NOW + 1, 500)
    assert len(bars) == 60
    assert bars[-1][0] == MINUTE.floor(NOW)


async def test_its_spot_pairs_are_the_market_crypto(exchange: Exchange, clock: ManualClock) -> None:
    async with opened(exchange, clock) as plugin:
        assert list(plugin.markets) == ["crypto"]
        (info,) = await plugin.get_symbols("crypto")
    assert (info.symbol, info.base, info.quote) == ("BTC/USDT", "BTC", "USDT")


def test_each_type_of_market_is_a_market_of_its_own(clock: ManualClock) -> None:
    settings = CcxtSettings().load({"exchange": "binance", "types": ["spot", "swap", "future"]})
    plugin = CcxtPlugin(PluginContext("x", clock, settings, {}))
    assert plugin.markets == ["crypto", "crypto_swap", "crypto_future"]


async def test_an_exchange_without_the_wanted_types_says_so(
    kraken: Exchange, clock: ManualClock
) -> None:
    settings = CcxtSettings().load({"exchange": "kraken", "types": ["swap"], "base_url": kraken.url})
    plugin = CcxtPlugin(PluginContext("x", clock, settings, CcxtCredentials().load({})))
    with pytest.raises(ProviderFailed, match="no market of the types swap"):
        await plugin.open()
    await plugin.close()


async def test_symbols_are_asked_for_anew_when_they_are_old(
    exchange: Exchange, clock: ManualClock
) -> None:
    async with opened(exchange, clock) as plugin:
        before = len(exchange.asked)
        await plugin.get_symbols("crypto")
        assert len(exchange.asked) == before
        clock.advance(M)
        await plugin.get_symbols("crypto")
        assert len(exchange.asked) > before


async def test_pages_and_timeframes_are_the_exchange_s_own(
    binance: Exchange, kraken: Exchange, clock: ManualClock
) -> None:
    async with opened(binance, clock) as plugin:
        assert plugin.page_limit == 1_000
        assert plugin.rate_limit == RateLimit(requests=5, per_ms=300)
        assert {"1s", "1m", "4h", "1d", "1M"} <= set(map(str, plugin.timeframes))
    async with opened(kraken, clock) as plugin:
        assert plugin.page_limit == 720
        assert plugin.rate_limit == RateLimit(requests=5, per_ms=6_000)
        # Kraken's weeks begin on Thursday, and its two weeks nobody knows when.
        assert list(map(str, plugin.timeframes)) == ["1m", "5m", "15m", "30m", "1h", "4h", "1d"]


async def test_a_long_range_comes_in_full_pages(binance: Exchange, clock: ManualClock) -> None:
    async with opened(binance, clock) as plugin:
        page = await fetch(plugin, NOW - 3_000 * M, NOW, 1_000)
        assert len(page) == 1_000
        assert page[0][0] == MINUTE.ceil(NOW - 3_000 * M)
        assert len([one for one in binance.asked if "klines" in one]) == 1


async def test_history_that_the_exchange_does_not_keep_is_told(
    kraken: Exchange, clock: ManualClock
) -> None:
    async with opened(kraken, clock) as plugin:
        with pytest.raises(HistoryEnds) as end:
            await fetch(plugin, NOW - 3_000 * M, NOW, 720)
        assert end.value.first_ms == MINUTE.floor(NOW) - 719 * M
        assert len(await fetch(plugin, end.value.first_ms, NOW + 1, 720)) == 720


async def test_the_exchange_s_own_spelling_is_not_a_symbol(
    exchange: Exchange, clock: ManualClock
) -> None:
    async with opened(exchange, clock) as plugin:
        for symbol in ("BTCUSDT", "XBTUSDT", "XBT/USDT", "btc/usdt"):
            with pytest.raises(UnknownSymbol):
                await plugin.fetch_ohlcv(symbol, MINUTE, NOW - M, NOW, 1, {})


@pytest.mark.parametrize(
    ("status", "body", "headers", "kind", "told"),
    [
        (429, {}, {"Retry-After": "7"}, ProviderRateLimited, "patience"),
        (418, {}, {}, ProviderRateLimited, "patience"),
        (503, "<html>", {}, ProviderFailed, "cannot be reached"),
        (200, '[[1709640000000,"1","2","0.5"', {}, ProviderFailed, "cannot be read"),
        (200, "<html>maintenance</html>", {}, ProviderFailed, "cannot be read"),
    ],
)
async def test_what_goes_wrong_is_told_in_marketd_s_words(
    status: int,
    body: Any,
    headers: dict[str, str],
    kind: type[ProviderFailed],
    told: str,
    exchange: Exchange,
    clock: ManualClock,
) -> None:
    async with opened(exchange, clock) as plugin:
        exchange.faults.append(refusing(status, body, **headers))
        with pytest.raises(kind, match=told) as failure:
            await fetch(plugin, NOW - 10 * M, NOW)
        assert "http" not in failure.value.message
        assert failure.value.transient
        if isinstance(failure.value, ProviderRateLimited):
            assert failure.value.retry_after_s == (7.0 if headers else None)
        assert len(await fetch(plugin, NOW - 10 * M, NOW)) == 10


async def test_rows_that_are_no_bars_are_not_taken_for_silence(
    exchange: Exchange, clock: ManualClock
) -> None:
    async with opened(exchange, clock) as plugin:
        exchange.faults.append(refusing(200, exchange.hollow))
        with pytest.raises(ProviderFailed, match="not bars"):
            await fetch(plugin, NOW - 10 * M, NOW)


async def test_a_connection_that_breaks_is_worth_another_try(
    binance: Exchange, clock: ManualClock
) -> None:
    async def cut() -> web.StreamResponse:
        raise ConnectionResetError

    async with opened(binance, clock) as plugin:
        binance.faults.append(cut)
        with pytest.raises(ProviderFailed) as failure:
            await fetch(plugin, NOW - 10 * M, NOW)
        assert failure.value.transient


async def test_a_key_is_tried_and_a_refused_one_is_told(exchange: Exchange, clock: ManualClock) -> None:
    async with opened(exchange, clock, api_key="k", secret=SECRET) as plugin:
        assert len(await fetch(plugin, NOW - 10 * M, NOW)) == 10
    plugin = made(exchange, clock, api_key="expired", secret=SECRET)
    with pytest.raises(ProviderFailed, match="key refused by the provider") as failure:
        await plugin.open()
    await plugin.close()
    assert not failure.value.transient
    assert "expired" not in failure.value.message
    assert any("rivate" in one or "account" in one or "sapi" in one for one in exchange.asked)


async def test_a_secret_that_cannot_be_one_is_told(kraken: Exchange, clock: ManualClock) -> None:
    plugin = made(kraken, clock, api_key="k", secret="not base64")
    with pytest.raises(ProviderFailed, match="the secret is not of the kind") as failure:
        await plugin.open()
    await plugin.close()
    assert not failure.value.transient


@pytest.mark.parametrize(
    ("section", "told"),
    [
        ({}, "exchange"),
        ({"exchange": "Kraken"}, "exchange"),
        ({"exchange": "kraken", "types": ["option"]}, "types"),
        ({"exchange": "kraken", "types": []}, "types"),
        ({"exchange": "kraken", "base_url": "ftp://x"}, "base_url"),
        ({"exchange": "kraken", "sandbx": True}, "sandbx"),
    ],
)
def test_wrong_settings_are_refused(section: dict[str, Any], told: str) -> None:
    with pytest.raises(ValidationError) as wrong:
        CcxtSettings().load(section)
    assert told in wrong.value.messages_dict


def test_a_secret_without_a_key_is_refused() -> None:
    with pytest.raises(ValidationError):
        CcxtCredentials().load({"secret": "s"})


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"exchange": "nowhere"}, "no exchange nowhere"),
        ({"exchange": "kraken", "sandbox": True}, "test"),
    ],
)
async def test_what_ccxt_does_not_have_is_told_at_open(
    settings: dict[str, Any], told: str, clock: ManualClock
) -> None:
    plugin = CcxtPlugin(
        PluginContext("x", clock, CcxtSettings().load(settings), CcxtCredentials().load({}))
    )
    with pytest.raises(ProviderFailed, match=told) as failure:
        await plugin.open()
    assert not failure.value.transient
    await plugin.close()


async def test_before_it_is_open_it_says_so(clock: ManualClock, binance: Exchange) -> None:
    with pytest.raises(NotReady):
        await fetch(made(binance, clock), NOW - M, NOW)


async def test_opening_can_be_cancelled_and_leaves_nothing_behind(
    binance: Exchange, clock: ManualClock
) -> None:
    asked = asyncio.Event()

    async def hang() -> web.StreamResponse:
        asked.set()
        await asyncio.Event().wait()
        raise AssertionError

    binance.faults.append(hang)
    plugin = made(binance, clock)
    opening = asyncio.create_task(plugin.open())
    await asked.wait()
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    await plugin.close()


async def next_closed(stream: AsyncIterator[BarUpdate]) -> Bar:
    while True:
        update = await anext(stream)
        if update.closed:
            return update.bar


async def test_a_bar_is_closed_when_the_next_one_begins(exchange: Exchange, clock: ManualClock) -> None:
    async with opened(exchange, clock) as plugin:
        async with asyncio.timeout(30), aclosing(plugin.stream_bars("BTC/USDT", MINUTE)) as stream:
            forming = await anext(stream)
            assert not forming.closed
            assert forming.bar[0] == MINUTE.floor(NOW)
            closing = asyncio.create_task(next_closed(stream))
            while not closing.done():
                clock.advance(5_000)
                await asyncio.sleep(0.02)
            bar = closing.result()
        assert bar[0] == MINUTE.floor(NOW)
        assert [bar] == await fetch(plugin, bar[0], bar[0] + 1)


async def test_streams_of_one_timeframe_share_a_socket_and_the_last_closes_it(
    kraken: Exchange, clock: ManualClock
) -> None:
    async with opened(kraken, clock) as plugin:
        async with asyncio.timeout(30):
            async with aclosing(plugin.stream_bars("BTC/USDT", MINUTE)) as one:
                await anext(one)
                async with aclosing(plugin.stream_ticks("BTC/USDT")) as ticks:
                    waiting = asyncio.create_task(anext(ticks))
                    while not waiting.done():
                        clock.advance(1_000)
                        await asyncio.sleep(0.02)
                    assert waiting.result()
                    # ccxt keeps a socket an address; trades have a client of their own.
                    assert len(kraken.sockets) == 2
            await kraken.deserted()


async def test_a_stream_whose_socket_is_cut_fails_and_another_one_works(
    exchange: Exchange, clock: ManualClock
) -> None:
    async with opened(exchange, clock) as plugin, asyncio.timeout(30):
        for _ in range(2):
            async with aclosing(plugin.stream_bars("BTC/USDT", MINUTE)) as stream:
                await anext(stream)
                await exchange.hang_up()
                with pytest.raises(MarketdError, match="cannot be reached"):
                    await next_closed(stream)


def test_ccxt_is_not_imported_before_a_provider_opens() -> None:
    source = (
        "import json, sys\n"
        "from marketd.cli.running import load_plugins\n"
        "from marketd.config import Config, ProviderConfig\n"
        "kraken = ProviderConfig('kraken', 'ccxt', {'exchange': 'kraken'})\n"
        "loader = load_plugins(Config(providers={'kraken': kraken}))\n"
        "print(json.dumps([list(loader.providers), 'ccxt' in sys.modules]))"
    )
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [["kraken"], False]


async def test_whether_there_are_streams_is_found_at_open(kraken: Exchange, clock: ManualClock) -> None:
    class Streamless(CcxtPlugin):
        def _make(self) -> Any:
            client = super()._make()
            client.has |= {"watchOHLCV": False, "watchTrades": None}
            return client

    settings = CcxtSettings().load({"exchange": "kraken", "base_url": kraken.url})
    plugin = Streamless(PluginContext("x", clock, settings, CcxtCredentials().load({})))
    assert plugin.has_bar_stream
    await plugin.open()
    assert not plugin.has_bar_stream
    assert not plugin.has_tick_stream
    await plugin.close()


def test_kraken_is_there_where_no_provider_is_named() -> None:
    loader = load_plugins(load_config(None, {}))
    kraken = loader.provider("kraken").plugin
    assert kraken.context.settings["exchange"] == "kraken"
    assert not any(kraken.context.credentials.values())
    assert list(loader.providers) == ["sim", "kraken"]
    named = load_plugins(load_config(None, {"MARKETD_PROVIDERS__A__PLUGIN": "sim"}))
    assert list(named.providers) == ["a"]


def test_the_readme_has_every_setting_and_credential() -> None:
    readme = (Path(__file__).resolve().parents[1] / "README.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `(\w+)` \|", readme, re.MULTILINE)) == set(CcxtSettings().fields)
    assert all(f"`{name}`" in readme for name in CcxtCredentials().fields)
