"""One socket a stream for all who follow, what comes over it, and how it ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any, cast

import pytest
from alpaca_standin import HOUR, KEY, MINUTE, NOW, SECRET, Alpaca, Opened, row_of
from hypothesis import given
from hypothesis import strategies as st
from marketd_alpaca import connection as connecting
from marketd_alpaca import inbox as receiving
from marketd_alpaca import streams
from marketd_alpaca.hours import in_hours
from marketd_alpaca.plugin import AlpacaPlugin

from marketd.clock import ManualClock
from marketd.domain.bar import Bar
from marketd.domain.errors import MarketdError, ProviderFailed
from marketd.domain.resample import resample
from marketd.plugins import BarUpdate

M = 60_000
OPEN = MINUTE.floor(NOW)


def bar(minute: int, close: float = 5.5, start: int = OPEN) -> Bar:
    return (start + minute * M, 5.0, 6.0, 4.0, close, 10.0)


@asynccontextmanager
async def following(plugin: AlpacaPlugin, symbol: str = "SPY", **more: Any) -> AsyncIterator[Any]:
    """The stream of bars of a symbol, being read: its task begins with the first look."""
    stream = plugin.stream_bars(symbol, more.get("timeframe", MINUTE))
    async with asyncio.timeout(30), aclosing(cast(AsyncGenerator[BarUpdate, None], stream)) as updates:
        yield updates


async def said(alpaca: Alpaca, updates: AsyncIterator[BarUpdate], *bars: Bar, **more: Any) -> BarUpdate:
    """The next update, once Alpaca has said `bars`."""
    waiting = asyncio.ensure_future(anext(updates))
    channel, symbol = more.get("channel", "bars"), more.get("symbol", "SPY")
    await alpaca.subscribed(channel, symbol)
    for one in bars:
        await alpaca.say(channel, symbol, row_of(one))
    return await waiting


async def test_a_minute_comes_closed_and_its_correction_comes_again(
    opened: Opened, alpaca: Alpaca
) -> None:
    async with opened() as plugin, following(plugin) as updates:
        assert await said(alpaca, updates, bar(0)) == BarUpdate(bar(0), closed=True)
        corrected = await said(alpaca, updates, bar(0, 5.75), channel="updatedBars")
        assert corrected == BarUpdate(bar(0, 5.75), closed=True)


async def test_trades_come_as_ticks_with_the_side_where_alpaca_tells_it(
    opened: Opened, alpaca: Alpaca
) -> None:
    stock = {"t": "2024-03-05T15:00:31.25Z", "p": 5.5, "s": 100, "i": 7, "c": ["@"], "x": "V", "z": "C"}
    coin = {"t": "2024-03-05T15:00:31.123456789Z", "p": 5.5, "s": 0.25, "i": 8, "tks": "S"}
    async with opened() as plugin, asyncio.timeout(30):
        for symbol, row, tick in (
            ("SPY", stock, (NOW + 1_250, 5.5, 100.0, "", "7")),
            ("BTC/USD", coin, (NOW + 1_123, 5.5, 0.25, "sell", "8")),
        ):
            async with aclosing(cast(Any, plugin.stream_ticks(symbol))) as ticks:
                waiting = asyncio.ensure_future(anext(ticks))
                await alpaca.subscribed("trades", symbol)
                await alpaca.say("trades", symbol, row)
                assert list(await waiting) == [tick]


async def test_all_who_follow_share_a_socket_and_the_last_one_hangs_up(
    opened: Opened, alpaca: Alpaca
) -> None:
    async with opened() as plugin:
        async with following(plugin) as one, following(plugin, "AAPL") as other:
            async with following(plugin, "BTC/USD") as coin, following(plugin) as again:
                await said(alpaca, coin, bar(0), symbol="BTC/USD")
                first = asyncio.ensure_future(anext(one))
                await said(alpaca, again, bar(0))
                assert (await first).bar == bar(0)
                await said(alpaca, other, bar(0), symbol="AAPL")
                # Stocks and crypto are two streams: an account may have one socket to each.
                assert alpaca.handshakes == 2
            # What nobody follows any more is given up, without a new socket.
            await said(alpaca, one, bar(1))
            await alpaca.forsaken("bars", "BTC/USD")
        await alpaca.deserted()
        assert alpaca.handshakes == 2


async def test_a_socket_that_breaks_is_told_to_all_and_the_next_one_works(
    opened: Opened, alpaca: Alpaca
) -> None:
    async with opened() as plugin:
        for minute in range(2):
            async with following(plugin) as one, following(plugin, "AAPL") as other:
                await said(alpaca, one, bar(minute))
                await said(alpaca, other, bar(minute), symbol="AAPL")
                await alpaca.hang_up()
                for updates in (one, other):
                    with pytest.raises(ProviderFailed, match="hung up"):
                        await anext(updates)
        assert alpaca.handshakes == 2


@pytest.mark.parametrize(
    ("code", "match", "transient"),
    [
        (402, "key refused", False),
        (404, "in time", True),
        (406, "another connection", True),
        (409, "plan does not include", False),
        (500, "error", True),
    ],
)
async def test_what_a_stream_does_not_let_in_is_told_as_what_it_is(
    opened: Opened, alpaca: Alpaca, code: int, match: str, transient: bool
) -> None:
    alpaca.refusal = code
    async with opened() as plugin, following(plugin) as updates:
        with pytest.raises(ProviderFailed, match=match) as told:
            await anext(updates)
        assert told.value.transient is transient


async def test_a_refused_key_is_not_tried_again_at_once(
    opened: Opened, alpaca: Alpaca, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened() as plugin:
        alpaca.refusal = 402
        for _ in range(5):
            async with following(plugin) as updates:
                with pytest.raises(ProviderFailed, match="key refused"):
                    await anext(updates)
        assert alpaca.handshakes == 1
        monkeypatch.setattr(streams, "_REFUSED_S", 0.0)
        plugin._streams["us_equity"]._refused_until_s = 0.0
        alpaca.refusal = 0
        async with following(plugin) as updates:
            assert (await said(alpaca, updates, bar(0))).closed


async def test_a_second_daemon_with_the_same_key_is_told_that_there_is_another(
    opened: Opened, alpaca: Alpaca
) -> None:
    async with opened() as first, opened() as second:
        async with following(first) as updates:
            await said(alpaca, updates, bar(0))
            async with following(second) as others:
                with pytest.raises(ProviderFailed, match="another connection"):
                    await anext(others)
        await alpaca.deserted()
        async with following(second) as others:
            assert (await said(alpaca, others, bar(0))).closed


async def test_being_read_too_slowly_is_told_as_that(opened: Opened, alpaca: Alpaca) -> None:
    async with opened() as plugin, following(plugin) as updates:
        await said(alpaca, updates, bar(0))
        await alpaca.fail(407)
        with pytest.raises(ProviderFailed, match="not read fast enough"):
            await anext(updates)


async def test_one_symbol_too_many_costs_only_itself(opened: Opened, alpaca: Alpaca) -> None:
    alpaca.plan = 2
    async with opened() as plugin:
        async with following(plugin, "AAPL") as one, following(plugin, "ACME") as two:
            async with following(plugin, "SPY") as three:
                tasks = [asyncio.ensure_future(anext(updates)) for updates in (one, two, three)]
                with pytest.raises(ProviderFailed, match="no more symbols"):
                    await tasks[2]
            await alpaca.say("bars", "AAPL", row_of(bar(0)))
            await alpaca.say("bars", "ACME", row_of(bar(0)))
            assert [(await task).bar for task in tasks[:2]] == [bar(0), bar(0)]
        assert alpaca.handshakes == 1


@pytest.mark.parametrize(
    "row", [{"t": "soon"}, {"t": "2024-03-05T15:00:00Z"}, row_of(bar(0)) | {"v": "many"}, {"o": None}]
)
async def test_a_row_that_cannot_be_read_is_the_vendor_s_failure(
    opened: Opened, alpaca: Alpaca, row: dict[str, Any]
) -> None:
    async with opened() as plugin, following(plugin) as updates:
        waiting = asyncio.ensure_future(anext(updates))
        await alpaca.subscribed("bars", "SPY")
        await alpaca.say("bars", "SPY", row)
        with pytest.raises(ProviderFailed, match="cannot be read"):
            await waiting


@pytest.mark.parametrize("text", ["<html>", "{}", "[1]", '[{"S": "SPY"}]', '[{"T": 1}]', "null"])
async def test_a_frame_that_cannot_be_read_is_the_vendor_s_failure(
    opened: Opened, alpaca: Alpaca, text: str
) -> None:
    async with opened() as plugin, following(plugin) as updates:
        await said(alpaca, updates, bar(0))
        await alpaca.sockets[0].send_str(text)
        with pytest.raises(ProviderFailed, match="cannot be read"):
            await anext(updates)


async def test_a_stream_that_does_not_answer_is_given_up(
    opened: Opened, alpaca: Alpaca, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connecting, "_PATIENCE_S", 0.2)
    alpaca.is_mute = True
    async with opened() as plugin, following(plugin) as updates:
        with pytest.raises(ProviderFailed, match="did not answer in time"):
            await anext(updates)


async def test_a_quiet_socket_is_begun_anew_when_somebody_gives_up(
    opened: Opened, alpaca: Alpaca, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened() as plugin, following(plugin, "AAPL") as stays:
        async with following(plugin) as leaves:
            await said(alpaca, leaves, bar(0))
            waiting = asyncio.ensure_future(anext(stays))
            await alpaca.subscribed("bars", "AAPL")
            monkeypatch.setattr(connecting, "_QUIET_S", -1.0)
        with pytest.raises(ProviderFailed, match="says nothing"):
            await waiting


async def test_who_reads_too_late_is_told_and_keeps_nobody_else(
    opened: Opened, alpaca: Alpaca, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(receiving, "_MOST", 3)
    async with opened() as plugin, following(plugin) as late, following(plugin, "AAPL") as other:
        await said(alpaca, late, bar(0))
        for minute in range(1, 6):
            await alpaca.say("bars", "SPY", row_of(bar(minute)))
        await said(alpaca, other, bar(0), symbol="AAPL")
        assert [(await anext(late)).bar for _ in range(3)] == [bar(1), bar(2), bar(3)]
        with pytest.raises(ProviderFailed, match="faster than they were read"):
            await anext(late)


async def test_nobody_is_left_waiting_when_the_provider_closes(opened: Opened, alpaca: Alpaca) -> None:
    async with opened() as plugin, following(plugin) as updates:
        await said(alpaca, updates, bar(0))
        waiting = asyncio.ensure_future(anext(updates))
        await asyncio.sleep(0)
        await plugin.close()
        with pytest.raises(MarketdError, match="closed"):
            await waiting


async def test_an_hour_is_made_of_what_history_has_of_it_and_of_the_stream(
    opened: Opened, alpaca: Alpaca, clock: ManualClock
) -> None:
    clock.set(NOW + 57 * M)
    hour_ms = HOUR.floor(NOW)
    known = await alpaca.history("SPY", MINUTE, hour_ms, clock.now_ms())
    async with opened() as plugin, following(plugin, timeframe=HOUR) as updates:
        last = [bar(minute, start=hour_ms) for minute in (58, 59)]
        forming = await said(alpaca, updates, last[0])
        assert forming == BarUpdate(resample([*known, last[0]], HOUR)[0], closed=False)
        closed = await said(alpaca, updates, last[1])
        assert closed == BarUpdate(resample([*known, *last], HOUR)[0], closed=True)
        late = bar(58, 5.75, hour_ms)
        corrected = await said(alpaca, updates, late, channel="updatedBars")
        assert corrected == BarUpdate(resample([*known, late, last[1]], HOUR)[0], closed=True)


@given(
    traded=st.lists(st.integers(0, 5 * 60 - 1), min_size=1, max_size=60, unique=True).map(sorted),
    begun=st.integers(0, 60),
)
async def test_hours_out_of_a_stream_are_those_of_all_its_minutes(traded: list[int], begun: int) -> None:
    start = HOUR.floor(NOW)
    minutes = [bar(minute, 5.0 + minute % 7 / 8, start) for minute in traded]
    first = [one for one in minutes[:begun] if one[0] < start + 60 * M]

    async def live() -> AsyncIterator[Bar]:
        for minute in minutes[len(first) :]:
            yield minute

    told: dict[int, BarUpdate] = {}
    async for update in in_hours(live(), first):
        previous = told.get(update.bar[0])
        assert previous is None or not previous.closed
        told[update.bar[0]] = update
    hours = resample(minutes, HOUR)
    for hour in hours[:-1]:
        assert told[hour[0]] == BarUpdate(hour, closed=True)
    if len(first) < len(minutes):
        assert told[hours[-1][0]].bar == hours[-1]


def test_the_keys_are_in_no_repr() -> None:
    stream = streams.SharedStream("ws://127.0.0.1:1", {"key": KEY, "secret": SECRET})
    assert KEY not in repr(stream)
    assert SECRET not in repr(connecting.Connection("ws://127.0.0.1:1", {"secret": SECRET}))
