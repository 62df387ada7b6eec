"""The simulated exchange as a provider."""

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import pytest
from marshmallow import ValidationError

from marketd.clock import ManualClock
from marketd.domain.bar import Bar, all_valid
from marketd.domain.errors import UnknownSymbol, Unsupported
from marketd.domain.timeframe import DAY_MS, Timeframe
from marketd.plugins import BarStreams, PluginContext, TickStreams
from marketd.plugins.sim import SimPlugin, marketd_providers

SECOND, MINUTE, DAY = (Timeframe.parse(text) for text in ("1s", "1m", "1d"))
NOW_MS = 1_709_726_420_500  # Wednesday 2024-03-06 12:00:20.5 UTC, before New York opens
YEAR_MS = 365 * DAY_MS


def made(clock: ManualClock, **settings: Any) -> SimPlugin:
    return SimPlugin(PluginContext("sim", clock, SimPlugin.settings_schema().load(settings)))


@pytest.fixture
async def sim() -> SimPlugin:
    plugin = made(ManualClock(NOW_MS))
    await plugin.open()
    return plugin


async def fetch(
    plugin: SimPlugin, symbol: str, timeframe: Timeframe, since: int, before: int, limit: int = 10_000
) -> Sequence[Bar]:
    return await plugin.fetch_ohlcv(symbol, timeframe, since, before, limit, {})


def test_the_package_registers_the_plugin() -> None:
    assert marketd_providers() == [SimPlugin]
    assert SimPlugin.plugin == "sim"
    assert issubclass(SimPlugin, BarStreams)
    assert issubclass(SimPlugin, TickStreams)


def test_its_description_says_that_nothing_of_it_is_real() -> None:
    assert "Simulated" in SimPlugin.description
    assert "not real" in SimPlugin.description


async def test_every_symbol_of_a_market_is_told_with_its_name_currencies_and_first_day(
    sim: SimPlugin,
) -> None:
    told = {market: await sim.get_symbols(market) for market in sim.markets}
    assert {"BTC/USD", "ETH/USD", "SOL/USD", "DOGE/BTC"} <= {info.symbol for info in told["crypto"]}
    assert {"SPY", "AAPL", "ACME"} <= {info.symbol for info in told["us_equity"]}
    for market, infos in told.items():
        for info in infos:
            assert info.market == market
            assert "simulated" in info.name
            assert info.base
            assert info.quote
            assert info.first_ms is not None
            day = await fetch(sim, info.symbol, DAY, 0, NOW_MS, 1)
            assert info.first_ms <= day[0][0] <= info.first_ms + 5 * DAY_MS


async def test_fewer_bars_than_the_limit_are_all_there_are(sim: SimPlugin) -> None:
    since = NOW_MS - 12 * DAY_MS
    for symbol in ("DOGE/BTC", "ACME"):
        whole = await fetch(sim, symbol, MINUTE, since, NOW_MS)
        pages: list[Bar] = []
        cursor = since
        while page := await fetch(sim, symbol, MINUTE, cursor, NOW_MS, 700):
            assert len(page) == 700 or page[-1] == whole[-1]
            pages += page
            cursor = page[-1][0] + 1
        assert pages == whole
        assert 700 < len(whole) < 10_000


async def test_no_bar_opens_after_now_and_the_last_one_is_forming(sim: SimPlugin) -> None:
    for timeframe in (SECOND, MINUTE, DAY):
        since = NOW_MS - 100 * timeframe.nominal_ms
        found = await fetch(sim, "BTC/USD", timeframe, since, NOW_MS + YEAR_MS)
        assert timeframe.floor(NOW_MS) - 10_000 <= found[-1][0] <= NOW_MS
        assert all_valid(found, timeframe)
    minute = MINUTE.floor(NOW_MS)
    (forming,) = await fetch(sim, "BTC/USD", MINUTE, minute, NOW_MS + 1)
    later = made(ManualClock(minute + 60_000))
    await later.open()
    (whole,) = await fetch(later, "BTC/USD", MINUTE, minute, minute + 1)
    assert forming[1] == whole[1]
    assert (forming[5] or 0) < (whole[5] or 0)
    assert await fetch(sim, "BTC/USD", MINUTE, NOW_MS + 1, NOW_MS + DAY_MS) == []
    # New York has not opened yet.
    assert await fetch(sim, "SPY", DAY, DAY.floor(NOW_MS), NOW_MS + YEAR_MS) == []


async def test_a_restart_changes_nothing(sim: SimPlugin) -> None:
    again = made(ManualClock(NOW_MS), seed=1)
    await again.open()
    other = made(ManualClock(NOW_MS), seed=2)
    await other.open()
    span = NOW_MS - 3_600_000, NOW_MS + 1
    for timeframe in (SECOND, MINUTE):
        bars = await fetch(sim, "ETH/USD", timeframe, *span)
        assert await fetch(again, "ETH/USD", timeframe, *span) == bars
        assert await fetch(other, "ETH/USD", timeframe, *span) != bars


async def test_what_is_not_listed_is_refused_by_name(sim: SimPlugin) -> None:
    with pytest.raises(UnknownSymbol, match="btc/usd"):
        await fetch(sim, "btc/usd", MINUTE, 0, NOW_MS)
    for text in ("5m", "60s", "1h", "1M"):
        with pytest.raises(Unsupported, match=text):
            await fetch(sim, "BTC/USD", Timeframe.parse(text), 0, NOW_MS)


async def test_the_exchange_follows_the_clock_it_is_given_unless_told_otherwise() -> None:
    clock = ManualClock(NOW_MS)
    plugin = made(clock)
    await plugin.open()
    clock.advance(1234)
    assert plugin.clock.now_ms() == NOW_MS + 1234


async def test_with_a_start_its_clock_stands_there_when_it_opens() -> None:
    clock = ManualClock(NOW_MS)
    plugin = made(clock, start="2020-02-03T15:00:00+01:00")
    start_ms = int(datetime(2020, 2, 3, 14, tzinfo=UTC).timestamp()) * 1000
    assert plugin.clock.now_ms() == start_ms
    clock.advance(700)
    await plugin.open()
    assert plugin.clock.now_ms() == start_ms
    clock.advance(10_000)
    assert plugin.clock.now_ms() == start_ms + 10_000
    bars = await fetch(plugin, "BTC/USD", MINUTE, start_ms - 120_000, NOW_MS)
    assert bars[-1][0] == start_ms


async def test_with_a_speed_its_clock_runs_from_the_present_that_many_times_faster() -> None:
    clock = ManualClock(NOW_MS)
    plugin = made(clock, speed=60)
    await plugin.open()
    clock.advance(1000)
    assert plugin.clock.now_ms() == NOW_MS + 60_000


@pytest.mark.parametrize(
    "start",
    [
        1_580_738_400_000,
        "1580738400000",
        "2020-02-03T14:00:00Z",
        "2020-02-03 15:00:00.000+01:00",
        datetime(2020, 2, 3, 14, tzinfo=UTC),
    ],
)
def test_a_start_is_a_time_in_any_usual_spelling(start: object) -> None:
    assert SimPlugin.settings_schema().load({"start": start})["start"] == 1_580_738_400_000


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("start", "2020-02-03T14:00:00"),  # no offset
        ("start", "yesterday"),
        ("start", 1.5),
        ("start", True),
        ("start", -1),
        ("start", "9" * 30),
        ("start", "2100-01-01T00:00:00Z"),
        ("speed", 0),
        ("speed", -1),
        ("speed", "nan"),
        ("speed", "inf"),
        ("seed", "one"),
        ("colour", "red"),
    ],
)
def test_a_setting_that_makes_no_sense_is_refused_by_its_name(setting: str, value: object) -> None:
    with pytest.raises(ValidationError) as refused:
        SimPlugin.settings_schema().load({setting: value})
    assert isinstance(refused.value.messages, dict)
    assert list(refused.value.messages) == [setting]


def test_without_settings_it_runs_with_the_defaults() -> None:
    plugin = SimPlugin(PluginContext("sim", ManualClock(NOW_MS)))
    assert plugin.clock.now_ms() == NOW_MS
    assert SimPlugin.settings_schema().load({}) == {"seed": 1, "start": None, "speed": 1.0}


@pytest.mark.parametrize("symbol", ["BTC/USD", "DOGE/BTC", "SPY", "ACME"])
async def test_a_full_page_takes_a_moment(sim: SimPlugin, symbol: str) -> None:
    # Measured at 3 to 40 ms; the bounds leave room for a busy machine.
    for timeframe, since, limit, bound_s in (
        (DAY, NOW_MS - 10 * YEAR_MS, 10_000, 0.25),
        (MINUTE, NOW_MS - YEAR_MS, 10_000, 0.25),
        (SECOND, NOW_MS - YEAR_MS, 10_000, 0.5),
        (SECOND, NOW_MS - 10 * YEAR_MS, 1, 0.1),
        (MINUTE, NOW_MS - 10 * YEAR_MS, 1, 0.1),
    ):
        took_s = []
        for _ in range(3):
            started_s = time.perf_counter()
            bars = await fetch(sim, symbol, timeframe, since, NOW_MS, limit)
            took_s.append(time.perf_counter() - started_s)
            assert len(bars) == limit or (timeframe == DAY and len(bars) > 2000)
        assert min(took_s) < bound_s
