"""Past trades: of exchanges that are known to tell all of them, each asked in its own words."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from marketd_ccxt.plugin import CcxtPlugin
from marketd_ccxt.settings import CcxtSettings
from standin import NOW, Exchange, opened, refusing

from marketd.clock import ManualClock
from marketd.domain.bar import Tick
from marketd.domain.errors import NotReady, ProviderFailed, UnknownSymbol
from marketd.plugins import PluginContext

M = 60_000


async def fetch(plugin: CcxtPlugin, since: int, before: int, limit: int = 1_000) -> Sequence[Tick]:
    return await plugin.fetch_ticks("BTC/USDT", since, before, limit)


async def test_trades_are_the_exchange_s_to_the_last_digit(
    exchange: Exchange, clock: ManualClock
) -> None:
    truth = await exchange.trades(NOW - M, NOW + 1, 1_000)
    assert len(truth) > 100
    async with opened(exchange, clock) as plugin:
        assert await fetch(plugin, NOW - M, NOW + M) == truth
        # Within one second, and at the very trade.
        assert await fetch(plugin, truth[1][0], truth[9][0]) == truth[1:9]
        assert await fetch(plugin, truth[5][0], NOW, 7) == truth[5:12]


async def test_a_page_is_one_request_however_far_away_its_trades_are(
    exchange: Exchange, clock: ManualClock
) -> None:
    # Nothing is between the two, or ten hours.
    truth = await exchange.trades(NOW - 600 * M, NOW, 2_000)
    first, late = truth[:1], [(NOW - 10, 1.5, 0.25, "buy", "9")]

    async def quiet(since: int, before: int, limit: int, *_: str) -> list[Tick]:
        return [tick for tick in [*first, *late] if since <= tick[0] < before][:limit]

    async with opened(exchange, clock) as plugin:
        asked = len(exchange.asked)
        page = await fetch(plugin, NOW - 600 * M, NOW)
        assert page == truth[:1_000]
        rest = await fetch(plugin, page[-1][0], NOW)
        assert list(dict.fromkeys([*page, *rest])) == truth[: len(page) + len(rest) - 1]
        exchange.trades = quiet  # type: ignore[method-assign, assignment]
        assert await fetch(plugin, NOW - 600 * M, NOW) == [*first, *late]
        assert len(exchange.asked) == asked + 3


async def test_where_nothing_can_be_nothing_is_asked(exchange: Exchange, clock: ManualClock) -> None:
    async with opened(exchange, clock) as plugin:
        asked = len(exchange.asked)
        assert await fetch(plugin, NOW - M, NOW - M) == []
        assert await fetch(plugin, NOW + 1, NOW + M) == []
        assert len(exchange.asked) == asked


@pytest.mark.parametrize("body", ["hollow", "[[1709640000000", "{}", "[null]"])
async def test_what_is_no_trades_is_not_taken_for_silence(
    exchange: Exchange, clock: ManualClock, body: str
) -> None:
    async with opened(exchange, clock) as plugin:
        exchange.faults.append(refusing(200, exchange.hollow if body == "hollow" else body))
        with pytest.raises(ProviderFailed):
            await fetch(plugin, NOW - M, NOW)


async def test_trades_of_another_time_prove_nothing(exchange: Exchange, clock: ManualClock) -> None:
    asks = exchange.trades

    async def elsewhere(since: int, before: int, limit: int, *_: str) -> list[Tick]:
        return await asks(since - M, before, limit)

    async with opened(exchange, clock) as plugin:
        exchange.trades = elsewhere  # type: ignore[method-assign, assignment]
        with pytest.raises(ProviderFailed, match="another time"):
            await fetch(plugin, NOW - M, NOW)


async def test_a_name_that_is_no_symbol_has_no_trades(exchange: Exchange, clock: ManualClock) -> None:
    async with opened(exchange, clock) as plugin:
        for symbol in ("BTCUSDT", "btc/usdt"):
            with pytest.raises(UnknownSymbol):
                await plugin.fetch_ticks(symbol, NOW - M, NOW, 1)


@pytest.mark.parametrize(
    ("exchange_name", "types", "has_them"),
    [
        ("kraken", ["spot"], True),
        ("binance", ["spot"], True),
        ("binanceus", ["spot"], True),
        ("binance", ["spot", "swap"], False),
        ("coinbase", ["spot"], False),
    ],
)
async def test_only_what_is_known_to_tell_past_trades_says_so(
    exchange_name: str, types: list[str], has_them: bool, clock: ManualClock
) -> None:
    settings = CcxtSettings().load({"exchange": exchange_name, "types": types})
    plugin = CcxtPlugin(PluginContext("x", clock, settings, {}))
    assert plugin.has_tick_history is has_them
    with pytest.raises(NotReady):
        await fetch(plugin, NOW - M, NOW)
