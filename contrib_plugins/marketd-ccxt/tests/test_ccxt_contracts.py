"""Spot, perpetual and dated contracts of one exchange at once, which share names there and not here."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing

import pytest
from binance_standin import Binance
from marketd_ccxt.plugin import CcxtPlugin
from marketd_ccxt.settings import CcxtCredentials, CcxtSettings
from standin import NOW

from marketd.clock import ManualClock
from marketd.domain.errors import Unsupported
from marketd.domain.timeframe import Timeframe
from marketd.plugins import PluginContext

M = 60_000
MINUTE, DAY, MONTH = (Timeframe.parse(name) for name in ("1m", "1d", "1M"))
# The symbol of each market, and which simulated one has its values.
SYMBOLS = {
    "crypto": ("BTC/USDT", "BTC/USD"),
    "crypto_swap": ("BTC/USDT:USDT", "ETH/USD"),
    "crypto_future": ("BTC/USDT:USDT-240329", "SOL/USD"),
}


@pytest.fixture
async def plugin(binance: Binance, clock: ManualClock) -> AsyncIterator[CcxtPlugin]:
    settings = {"exchange": "binance", "types": ["spot", "swap", "future"], "base_url": binance.url}
    loaded = CcxtSettings().load(settings)
    plugin = CcxtPlugin(PluginContext("x", clock, loaded, CcxtCredentials().load({})))
    try:
        await plugin.open()
        yield plugin
    finally:
        await plugin.close()


async def test_each_market_lists_its_own(plugin: CcxtPlugin) -> None:
    assert list(plugin.markets) == list(SYMBOLS)
    for market, (symbol, _) in SYMBOLS.items():
        (info,) = await plugin.get_symbols(market)
        assert (info.symbol, info.market, info.base, info.quote) == (symbol, market, "BTC", "USDT")


@pytest.mark.parametrize("market", SYMBOLS)
async def test_the_history_of_each_is_its_own(plugin: CcxtPlugin, binance: Binance, market: str) -> None:
    symbol, simulated = SYMBOLS[market]
    bars = await plugin.fetch_ohlcv(symbol, MINUTE, NOW - 30 * M, NOW, 20, {})
    assert bars == await binance.history("1m", NOW - 30 * M, NOW, 20, simulated)
    assert len(bars) == 20


async def test_of_contracts_no_past_trades_are_told(plugin: CcxtPlugin, binance: Binance) -> None:
    asked = len(binance.asked)
    assert not plugin.has_tick_history
    with pytest.raises(Unsupported):
        await plugin.fetch_ticks("BTC/USDT:USDT", NOW - M, NOW, 10)
    assert len(binance.asked) == asked


async def test_a_month_is_a_month_and_no_minute(plugin: CcxtPlugin, binance: Binance) -> None:
    since = 1_672_531_200_000  # 2023-01-01
    bars = await plugin.fetch_ohlcv("BTC/USDT", MONTH, since, NOW, 12, {})
    assert [bar[0] for bar in bars] == [MONTH.shift(since, month) for month in range(12)]
    assert "interval=1M" in binance.asked[-1]


async def test_the_streams_of_pair_and_perpetual_are_kept_apart(
    plugin: CcxtPlugin, binance: Binance, clock: ManualClock
) -> None:
    """Both are called BTCUSDT on their sockets."""

    async def first_closed(symbol: str) -> object:
        async with aclosing(plugin.stream_bars(symbol, MINUTE)) as stream:
            async for update in stream:
                if update.closed:
                    return update.bar
        raise AssertionError

    async with asyncio.timeout(20):
        told = [asyncio.create_task(first_closed(SYMBOLS[one][0])) for one in SYMBOLS]
        while not all(task.done() for task in told):
            clock.advance(5_000)
            await asyncio.sleep(0.02)
    t_ms = MINUTE.floor(NOW)
    for task, (_, simulated) in zip(told, SYMBOLS.values(), strict=True):
        (bar,) = await binance.history("1m", t_ms, t_ms + 1, 1, simulated)
        assert task.result() == bar
