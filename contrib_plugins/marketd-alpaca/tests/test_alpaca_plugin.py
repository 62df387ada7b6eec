"""Listings, history, the calendar and what goes wrong, against a server that answers as Alpaca does."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from alpaca_standin import CONTRACT, HOUR, MINUTE, NOW, Alpaca, Opened, refusing
from marketd_alpaca.api import addresses
from marketd_alpaca.plugin import AlpacaPlugin
from marketd_alpaca.sessions import Sessions
from marketd_alpaca.settings import AlpacaCredentials, AlpacaParams, AlpacaSettings
from marshmallow import ValidationError

from marketd.clock import ManualClock
from marketd.domain.bar import Bar
from marketd.domain.errors import (
    InvalidInput,
    MarketdError,
    ProviderFailed,
    ProviderRateLimited,
    UnknownSymbol,
    Unsupported,
)
from marketd.domain.instant import epoch_ms
from marketd.domain.timeframe import Timeframe

M = 60_000
H = 60 * M


async def fetch(
    plugin: AlpacaPlugin,
    symbol: str,
    since: int,
    before: int,
    *,
    timeframe: Timeframe = MINUTE,
    limit: int = 10_000,
    params: Mapping[str, Any] | None = None,
) -> list[Bar]:
    return [*await plugin.fetch_ohlcv(symbol, timeframe, since, before, limit, params or {})]


def queries(alpaca: Alpaca, path: str) -> list[dict[str, str]]:
    """What the requests to `path` asked for."""
    asked = [urlsplit(one) for one in alpaca.asked]
    found = [one.query for one in asked if one.path.endswith(path)]
    return [{name: values[0] for name, values in parse_qs(query).items()} for query in found]


async def test_each_market_lists_its_own_asset_class(opened: Opened) -> None:
    every = ["us_equity", "crypto", "us_option"]
    async with opened(markets=every, underlyings=["SPY"]) as plugin:
        assert plugin.markets == every
        listed = {market: await plugin.get_symbols(market) for market in every}
    assert {info.symbol for info in listed["us_equity"]} == {"SPY", "AAPL", "ACME"}
    assert {info.symbol for info in listed["us_option"]} == {CONTRACT, CONTRACT.replace("C", "P")}
    (bitcoin,) = (info for info in listed["crypto"] if info.symbol == "BTC/USD")
    assert (bitcoin.base, bitcoin.quote, bitcoin.name) == ("BTC", "USD", "Bitcoin (simulated)")
    assert all(info.market == market for market, infos in listed.items() for info in infos)


async def test_what_is_traded_over_the_counter_is_listed_with_its_own_feed(
    opened: Opened, alpaca: Alpaca
) -> None:
    with pytest.raises(ProviderFailed, match="plan does not include"):
        async with opened(feed="otc", markets=["us_equity"]):
            pass
    async with opened(markets=["us_equity"]) as plugin:
        plugin._feed = "otc"
        assert [info.symbol for info in await plugin.get_symbols("us_equity")] == ["PINK"]


@pytest.mark.parametrize(
    ("symbol", "timeframe", "span"),
    [
        ("SPY", MINUTE, 30 * M),
        ("BTC/USD", MINUTE, 30 * M),
        ("SPY", HOUR, 8 * H),
        ("BTC/USD", HOUR, 48 * H),
    ],
)
async def test_history_is_what_alpaca_has(
    opened: Opened, alpaca: Alpaca, symbol: str, timeframe: Timeframe, span: int
) -> None:
    async with opened() as plugin:
        found = await fetch(plugin, symbol, NOW - 24 * H, NOW - 24 * H + span, timeframe=timeframe)
    assert found
    assert found == await alpaca.history(symbol, timeframe, NOW - 24 * H, NOW - 24 * H + span)


async def test_options_have_history_and_no_stream(opened: Opened, alpaca: Alpaca) -> None:
    async with opened(markets=["us_option"], underlyings=["SPY"]) as plugin:
        found = await fetch(plugin, CONTRACT, NOW - 30 * M, NOW)
        assert found == await alpaca.history(CONTRACT, MINUTE, NOW - 30 * M, NOW)
        assert not plugin.streams_bars_of(CONTRACT, MINUTE)
        with pytest.raises(Unsupported):
            await anext(plugin.stream_ticks(CONTRACT))  # type: ignore[arg-type]


async def test_pages_are_followed_by_their_tokens(opened: Opened, alpaca: Alpaca) -> None:
    alpaca.page = 7
    async with opened() as plugin:
        found = await fetch(plugin, "BTC/USD", NOW - 60 * M, NOW - 30 * M)
        assert found == await alpaca.history("BTC/USD", MINUTE, NOW - 60 * M, NOW - 30 * M)
        asked = queries(alpaca, "crypto/us/bars")
        assert len(asked) == -(-len(found) // 7)
        assert all("page_token" in one for one in asked[1:])
        assert await fetch(plugin, "BTC/USD", NOW - 60 * M, NOW - 30 * M, limit=9) == found[:9]
        assert int(queries(alpaca, "crypto/us/bars")[-1]["limit"]) == 2


async def test_pages_without_an_end_are_given_up(opened: Opened, alpaca: Alpaca) -> None:
    async with opened() as plugin:
        await plugin.get_symbols("crypto")
        alpaca.faults.extend([refusing(200, {"bars": {}, "next_page_token": "again"})] * 100)
        with pytest.raises(ProviderFailed, match="without an end"):
            await fetch(plugin, "BTC/USD", NOW - 60 * M, NOW - 30 * M)
        assert not alpaca.faults


@pytest.mark.parametrize("symbol", ["SPY", "BTC/USD", CONTRACT])
async def test_past_trades_are_told_page_by_page(opened: Opened, alpaca: Alpaca, symbol: str) -> None:
    since, before = NOW - 5 * M, NOW - 4 * M
    alpaca.page = 50
    async with opened(markets=["us_equity", "crypto", "us_option"], underlyings=["SPY"]) as plugin:
        expected = await alpaca.trades(symbol, since, before)
        assert len(expected) > 50
        assert list(await plugin.fetch_ticks(symbol, since, before, 10_000)) == expected
        assert list(await plugin.fetch_ticks(symbol, since, before, 10)) == expected[:10]
        last_ms = expected[-1][0]
        inner = [tick for tick in expected if tick[0] < last_ms]
        assert list(await plugin.fetch_ticks(symbol, since, last_ms, 10_000)) == inner
        assert list(await plugin.fetch_ticks(symbol, NOW + M, NOW + 2 * M, 10)) == []


async def test_past_trades_that_no_longer_stand_are_left_out(opened: Opened, alpaca: Alpaca) -> None:
    since, before = NOW - 5 * M, NOW - 4 * M
    alpaca.page = 20
    told = await alpaca.trades("SPY", since, before)
    alpaca.updates = {told[0][4]: "canceled", told[1][4]: "incorrect", told[2][4]: "corrected"}
    async with opened() as plugin:
        assert list(await plugin.fetch_ticks("SPY", since, before, 10_000)) == told[2:]
        # What was left out makes no page shorter: a short one would say that there is no more.
        assert list(await plugin.fetch_ticks("SPY", since, before, 10)) == told[2:12]


async def test_the_newest_minute_is_asked_for_as_the_latest_bar(opened: Opened, alpaca: Alpaca) -> None:
    newest_ms = MINUTE.floor(NOW) - M
    async with opened() as plugin:
        await plugin.get_symbols("us_equity")
        alpaca.asked.clear()
        for symbol in ("SPY", "BTC/USD"):
            found = await fetch(plugin, symbol, newest_ms, NOW)
            assert found == await alpaca.history(symbol, MINUTE, newest_ms, NOW)
            assert await fetch(plugin, symbol, MINUTE.floor(NOW), NOW) == []
        assert [urlsplit(one).path.rsplit("/", 2)[1:] for one in alpaca.asked] == [
            *2 * [["bars", "latest"]],
            *2 * [["latest", "bars"]],
        ]


async def test_adjustment_and_feed_are_asked_for(opened: Opened, alpaca: Alpaca) -> None:
    since, before = NOW - 60 * M, NOW - 30 * M
    async with opened() as plugin:
        raw = await fetch(plugin, "SPY", since, before)
        split = await fetch(plugin, "SPY", since, before, params={"adjustment": "split", "feed": "sip"})
        assert [bar[4] for bar in split] == [(bar[4] or 0) / 2 for bar in raw]
        first, second = queries(alpaca, "v2/stocks/bars")
        assert (first.get("adjustment"), first["feed"]) == (None, "iex")
        assert (second["adjustment"], second["feed"]) == ("split", "sip")
        with pytest.raises(InvalidInput, match="us_equity alone") as told:
            await fetch(plugin, "BTC/USD", since, before, params={"adjustment": "split"})
        assert told.value.field == "adjustment"


@pytest.mark.parametrize("params", [{"adjustment": "half"}, {"feed": "cnn"}, {"currency": "EUR"}])
def test_other_parameters_are_refused(params: dict[str, str]) -> None:
    with pytest.raises(ValidationError):
        AlpacaParams().load(params)


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"environment": "prod"}, "environment"),
        ({"markets": ["forex"]}, "markets"),
        ({"markets": []}, "markets"),
        ({"feed": "delayed_sip"}, "feed"),
        ({"markets": ["us_option"]}, "underlyings"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(settings: dict[str, Any], field: str) -> None:
    with pytest.raises(ValidationError) as told:
        AlpacaSettings().load(settings)
    assert set(told.value.messages_dict) == {field}


async def test_the_delayed_feed_has_its_present_a_quarter_of_an_hour_ago(
    opened: Opened, alpaca: Alpaca, clock: ManualClock
) -> None:
    async with opened(feed="delayed_sip", markets=["us_equity"]) as plugin:
        assert clock.now_ms() - plugin.clock.now_ms() >= 15 * M
        found = await fetch(plugin, "SPY", NOW - 30 * M, NOW)
        assert found[-1][0] <= NOW - 15 * M
        (asked,) = queries(alpaca, "v2/stocks/bars")
        assert asked["feed"] == "sip"
        assert epoch_ms(asked["end"]) <= NOW - 15 * M
        clock.advance(M)
        assert len(await fetch(plugin, "SPY", NOW - 30 * M, NOW)) == len(found) + 1


@pytest.mark.parametrize(
    ("environment", "hosts"),
    [
        ("paper", ("paper-api.alpaca.markets/v2", "data.alpaca.markets")),
        ("live", ("api.alpaca.markets/v2", "data.alpaca.markets")),
        ("sandbox", ("broker-api.sandbox.alpaca.markets/v1", "data.sandbox.alpaca.markets")),
    ],
)
async def test_each_environment_has_its_addresses_and_takes_its_keys(
    opened: Opened, alpaca: Alpaca, environment: str, hosts: tuple[str, str]
) -> None:
    plain = addresses(AlpacaSettings().load({"environment": environment}))
    assert (plain.trading, plain.data) == tuple(f"https://{host}" for host in hosts)
    assert plain.stream == "wss://stream." + hosts[1]
    async with opened(environment=environment) as plugin:
        assert await fetch(plugin, "SPY", NOW - 30 * M, NOW - 20 * M)
    assert {urlsplit(one).path.split("/")[1] for one in alpaca.asked} == {
        host.split("/")[0] for host in hosts
    }


async def test_a_refused_key_is_told_at_once_and_no_key_is_in_a_sentence(
    opened: Opened, alpaca: Alpaca
) -> None:
    for markets in (["us_equity"], ["crypto"]):
        alpaca.asked.clear()
        with pytest.raises(ProviderFailed, match="key refused by the provider") as told:
            async with opened(key="PK-EXPIRED", markets=markets):
                pass
        assert not told.value.transient
        assert "EXPIRED" not in told.value.message
        assert len(alpaca.asked) == 1
        assert "EXPIRED" not in alpaca.asked[0]


@pytest.mark.parametrize(
    ("status", "body", "headers", "kind", "match"),
    [
        (401, {"message": "unauthorized."}, {}, ProviderFailed, "key refused"),
        (403, {"message": "forbidden."}, {}, ProviderFailed, "key is refused"),
        (
            403,
            {"message": "subscription does not permit querying recent SIP data"},
            {},
            ProviderFailed,
            "another feed",
        ),
        (400, {"message": "invalid symbol: X"}, {}, UnknownSymbol, "symbol"),
        (422, {"message": "end should not be before start"}, {}, ProviderFailed, "422"),
        (429, {"message": "too many requests."}, {"Retry-After": "3"}, ProviderRateLimited, "patience"),
        (500, "oops", {}, ProviderFailed, "500"),
        (200, '{"bars": {"SPY": [{"t": "2024-', {}, ProviderFailed, "cannot be read"),
        (200, {"bars": {"SPY": [{"t": "2024-03-05T14:30:00Z"}]}}, {}, ProviderFailed, "cannot be read"),
        (200, {"message": "fine"}, {}, ProviderFailed, "cannot be read"),
    ],
)
async def test_what_is_no_data_is_told_as_what_it_is(
    opened: Opened,
    alpaca: Alpaca,
    status: int,
    body: Any,
    headers: dict[str, str],
    kind: type[MarketdError],
    match: str,
) -> None:
    async with opened(markets=["us_equity"]) as plugin:
        await plugin.get_symbols("us_equity")
        alpaca.faults.append(refusing(status, body, **headers))
        with pytest.raises(kind, match=match) as told:
            await fetch(plugin, "SPY", NOW - 30 * M, NOW - 20 * M)
        assert type(told.value) is kind
        assert await fetch(plugin, "SPY", NOW - 30 * M, NOW - 20 * M)


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"Retry-After": "3"}, 3.0),
        ({"X-RateLimit-Reset": str(NOW // 1000 + 17)}, 17.0),
        ({"X-RateLimit-Reset": str(NOW // 1000 + 3_000)}, 60.0),
        ({"X-RateLimit-Reset": "soon"}, None),
        ({}, None),
    ],
)
async def test_a_429_says_until_when(
    opened: Opened, alpaca: Alpaca, headers: dict[str, str], expected: float | None
) -> None:
    async with opened(markets=["crypto"]) as plugin:
        alpaca.faults.append(refusing(429, {}, **headers))
        with pytest.raises(ProviderRateLimited) as told:
            await fetch(plugin, "BTC/USD", NOW - 30 * M, NOW - 20 * M)
    assert told.value.retry_after_s == pytest.approx(expected, abs=0.1)


async def test_stocks_are_closed_at_night_on_holidays_and_after_an_early_close(opened: Opened) -> None:
    async with opened() as plugin:
        await plugin.get_symbols("us_equity")
        thanksgiving, end = epoch_ms("2023-11-22T12:00:00Z"), epoch_ms("2023-11-27T12:00:00Z")
        closed = [tuple(span) for span in _pairs(plugin, "SPY", thanksgiving, end)]
        assert closed == [
            (epoch_ms("2023-11-23T01:15:00Z"), epoch_ms("2023-11-24T08:45:00Z")),
            (epoch_ms("2023-11-24T22:15:00Z"), epoch_ms("2023-11-27T08:45:00Z")),
        ]
        # Ranges are cut to what was asked for, and of what nobody knows nothing is said.
        assert _pairs(plugin, "SPY", closed[0][0] + 5, closed[0][0] + 9) == [
            (closed[0][0] + 5, closed[0][0] + 9)
        ]
        assert _pairs(plugin, "SPY", 0, epoch_ms("2016-01-01T00:00:00Z")) == []
        assert (
            _pairs(plugin, "SPY", epoch_ms("2030-01-01T00:00:00Z"), epoch_ms("2031-01-01T00:00:00Z"))
            == []
        )
        assert _pairs(plugin, "BTC/USD", thanksgiving, end) == []


def _pairs(plugin: AlpacaPlugin, symbol: str, since: int, before: int) -> list[tuple[int, int]]:
    return [(span.start_ms, span.end_ms) for span in plugin.closed(symbol, since, before)]


async def test_no_bar_lies_where_the_market_is_said_to_be_closed(opened: Opened, alpaca: Alpaca) -> None:
    since, before = epoch_ms("2024-03-01T00:00:00Z"), epoch_ms("2024-03-05T14:00:00Z")
    async with opened() as plugin:
        await plugin.get_symbols("us_equity")
        bars = await alpaca.history("SPY", MINUTE, since, before)
        assert bars
        for start, end in _pairs(plugin, "SPY", since, before):
            assert not [bar for bar in bars if start <= bar[0] < end]


@pytest.mark.parametrize(
    "rows",
    [
        [{"date": "2024-03-05"}],
        [{"date": "soon", "session_open": "0400", "session_close": "2000"}],
        [
            {"date": day, "session_open": "0400", "session_close": "2000"}
            for day in ("2024-03-05", "2024-03-04")
        ],
    ],
)
def test_a_calendar_that_cannot_be_right_is_refused(rows: list[dict[str, str]]) -> None:
    with pytest.raises((ValueError, LookupError)):
        Sessions.of(rows)


def test_the_readme_has_every_setting_parameter_and_credential() -> None:
    readme = (Path(__file__).resolve().parents[1] / "README.md").read_text(encoding="utf-8")
    documented = set(re.findall(r"^\| `(\w+)` \|", readme, re.MULTILINE))
    assert documented == set(AlpacaSettings().fields) | set(AlpacaParams().fields)
    assert all(f"`{name}`" in readme for name in AlpacaCredentials().fields)
