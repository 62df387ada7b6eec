"""Alpaca's own client understands the stand-in: what the plugin is tried on is Alpaca's language."""

from __future__ import annotations

import asyncio
import threading
from datetime import UTC, datetime
from typing import Any

import pytest
from alpaca_standin import KEY, MINUTE, NOW, SECRET, Alpaca, row_of

from marketd.clock import ManualClock
from marketd.domain.bar import Bar

# It uses what the websockets package will drop.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")

M = 60_000


def ours(bar: Any) -> Bar:
    t_ms = round(bar.timestamp.timestamp() * 1000)
    return (t_ms, bar.open, bar.high, bar.low, bar.close, bar.volume)


async def test_history_page_by_page_is_what_our_stand_in_has(alpaca: Alpaca) -> None:
    from alpaca.data.historical import CryptoHistoricalDataClient, StockHistoricalDataClient
    from alpaca.data.requests import CryptoBarsRequest, StockBarsRequest, StockLatestBarRequest
    from alpaca.data.timeframe import TimeFrame

    alpaca.page = 7
    url = f"{alpaca.url}data.alpaca.markets"
    span = [datetime.fromtimestamp((NOW + one) / 1000, UTC) for one in (-30 * M, -10 * M)]

    def ask() -> tuple[Any, Any, Any]:
        stocks = StockHistoricalDataClient(KEY, SECRET, url_override=url)
        coins = CryptoHistoricalDataClient(KEY, SECRET, url_override=url)
        asked = {"timeframe": TimeFrame.Minute, "start": span[0], "end": span[1]}
        return (
            stocks.get_stock_bars(StockBarsRequest(symbol_or_symbols="SPY", **asked))["SPY"],
            coins.get_crypto_bars(CryptoBarsRequest(symbol_or_symbols="BTC/USD", **asked))["BTC/USD"],
            stocks.get_stock_latest_bar(StockLatestBarRequest(symbol_or_symbols="SPY"))["SPY"],
        )

    *bars, latest = await asyncio.to_thread(ask)
    for symbol, found in zip(("SPY", "BTC/USD"), bars, strict=True):
        expected = await alpaca.history(symbol, MINUTE, NOW - 30 * M, NOW - 10 * M)
        assert [ours(bar) for bar in found] == expected
    assert [ours(latest)] == await alpaca.history("SPY", MINUTE, NOW - 2 * M, NOW)


async def test_listings_contracts_and_the_calendar_are_read(alpaca: Alpaca) -> None:
    from alpaca.trading.client import TradingClient
    from alpaca.trading.requests import (
        GetAssetsRequest,
        GetCalendarRequest,
        GetOptionContractsRequest,
    )

    def ask() -> tuple[Any, Any, Any]:
        url = f"{alpaca.url}paper-api.alpaca.markets"
        client = TradingClient(KEY, SECRET, url_override=url)
        days = {"start": datetime(2023, 11, 20).date(), "end": datetime(2023, 11, 24).date()}  # noqa: DTZ001
        return (
            client.get_all_assets(GetAssetsRequest(asset_class="crypto")),
            client.get_option_contracts(GetOptionContractsRequest(underlying_symbols=["SPY"])),
            client.get_calendar(GetCalendarRequest(**days)),
        )

    assets, contracts, days = await asyncio.to_thread(ask)
    assert "BTC/USD" in {asset.symbol for asset in assets}
    assert [one.underlying_symbol for one in contracts.option_contracts] == ["SPY"]
    assert contracts.next_page_token
    assert [(day.date.day, day.close.hour) for day in days] == [(20, 16), (21, 16), (22, 16), (24, 13)]


async def test_live_bars_corrections_and_trades_come_over_its_stream(
    alpaca: Alpaca, clock: ManualClock
) -> None:
    from alpaca.data.live import StockDataStream

    url = f"{alpaca.url}stream.data.alpaca.markets/v2/iex".replace("http", "ws", 1)
    stream = StockDataStream(KEY, SECRET, url_override=url)
    loop = asyncio.get_running_loop()
    told: asyncio.Queue[Any] = asyncio.Queue()

    async def tell(message: Any) -> None:
        loop.call_soon_threadsafe(told.put_nowait, message)

    stream.subscribe_bars(tell, "SPY")
    stream.subscribe_updated_bars(tell, "SPY")
    stream.subscribe_trades(tell, "SPY")
    thread = threading.Thread(target=stream.run)
    thread.start()
    try:
        async with asyncio.timeout(30):
            await alpaca.subscribed("updatedBars", "SPY")
            bar: Bar = (MINUTE.floor(NOW), 5.0, 6.0, 4.0, 5.5, 10.0)
            for channel in ("bars", "updatedBars"):
                await alpaca.say(channel, "SPY", row_of(bar))
                assert ours(await told.get()) == bar
            clock.advance(10 * M)
            assert (await told.get()).symbol == "SPY"
    finally:
        stream.stop()
        await asyncio.to_thread(thread.join)
