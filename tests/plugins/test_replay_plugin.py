"""The replay provider as the core sees it: settings, symbols, pages and streams in its three modes."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from marshmallow import ValidationError

from marketd.clock import Clock, ManualClock
from marketd.domain.bar import Bar
from marketd.domain.errors import ProviderFailed, UnknownSymbol, Unsupported
from marketd.domain.timeframe import DAY_MS, Timeframe
from marketd.plugins import BarUpdate, PluginContext
from marketd.plugins.replay import ReplayPlugin, marketd_providers
from marketd.plugins.replay.settings import ReplaySettings

MINUTE_MS = 60_000
HOUR_MS = 60 * MINUTE_MS
MINUTE, HOUR = Timeframe.parse("1m"), Timeframe.parse("1h")
T = 1_294_048_800_000  # Monday 2011-01-03 10:00
NOW = 1_750_000_123_456
HEADER = "timestamp_ms,open,high,low,close,volume"


class JumpingClock(Clock):
    """A clock on which whoever waits for a time finds that it has come."""

    def __init__(self, now_ms: int) -> None:
        self._now_ms = now_ms

    def now_ms(self) -> int:
        return self._now_ms

    async def sleep_until(self, t_ms: int) -> None:
        self._now_ms = max(self._now_ms, t_ms)


def bar(t_ms: int, price: float = 100.0) -> Bar:
    return t_ms, price, price + 3, price - 1, price + 1, 8.0


def write(folder: Path, name: str, bars: Sequence[Bar]) -> None:
    lines = [HEADER, *(",".join("" if value is None else str(value) for value in bar) for bar in bars)]
    (folder / name).write_text("\n".join(lines))


def series(file: str, timeframe: str = "1m", symbol: str = "SPY", **more: str) -> dict[str, str]:
    return {"file": file, "market": "us_equity", "symbol": symbol, "timeframe": timeframe, **more}


def plugin(folder: Path, system: Clock, **settings: Any) -> ReplayPlugin:
    loaded = ReplaySettings().load({"path": str(folder), **settings})
    return ReplayPlugin(PluginContext("files", system, loaded))


@asynccontextmanager
async def opened(folder: Path, system: Clock, **settings: Any) -> AsyncIterator[ReplayPlugin]:
    made = plugin(folder, system, **settings)
    try:
        await made.open()
        yield made
    finally:
        await made.close()


async def fetch(
    replay: ReplayPlugin, since: int, before: int, limit: int = 10_000, timeframe: Timeframe = MINUTE
) -> Sequence[Bar]:
    return await replay.fetch_ohlcv("SPY", timeframe, since, before, limit, {})


def next_of(stream: AsyncIterator[BarUpdate]) -> asyncio.Future[BarUpdate]:
    return asyncio.ensure_future(anext(stream))


async def refused(folder: Path, **settings: Any) -> str:
    made = plugin(folder, ManualClock(NOW), **settings)
    with pytest.raises(ProviderFailed) as failure:
        await made.open()
    await made.close()
    assert not failure.value.transient
    assert str(folder) not in failure.value.message
    return failure.value.message


def wrong(**settings: Any) -> dict[str, Any]:
    with pytest.raises(ValidationError) as failure:
        ReplaySettings().load({"path": "/srv", **settings})
    messages = failure.value.messages
    assert isinstance(messages, dict)
    return messages


@pytest.fixture
def minutes(tmp_path: Path) -> list[Bar]:
    """Two hours of SPY with the minutes 30 to 39 missing, as minutes and as hours."""
    bars = [bar(T + i * MINUTE_MS, 100.0 + i) for i in range(120) if not 30 <= i < 40]
    write(tmp_path, "SPY_1m.csv", bars)
    write(tmp_path, "SPY_1h.csv", [bar(T, 300.0), bar(T + HOUR_MS, 400.0)])
    return bars


BOTH = [series("SPY_1m.csv", name="S&P 500 ETF"), series("SPY_1h.csv", "1h")]
PRESENT: dict[str, Any] = {"clock": "present", "series": BOTH}


def test_the_package_declares_one_provider_plugin() -> None:
    assert list(marketd_providers()) == [ReplayPlugin]


# Settings


def test_the_defaults_keep_the_recorded_times() -> None:
    loaded = ReplaySettings().load({"path": "/srv", "market": "crypto"})
    assert loaded == {
        "path": "/srv",
        "market": "crypto",
        "clock": "recorded",
        "start": None,
        "speed": 1.0,
        "series": [],
    }


@pytest.mark.parametrize(
    "start",
    [
        "2011-01-03T10:00:00Z",
        "2011-01-03 05:00:00-05:00",
        T,
        str(T),
        datetime(2011, 1, 3, 10, tzinfo=UTC),
    ],
)
def test_a_start_is_rfc_3339_or_toml_time_or_epoch_milliseconds(start: object) -> None:
    assert ReplaySettings().load({"path": "/srv", "market": "x", "start": start})["start"] == T


@pytest.mark.parametrize(
    "start",
    ["2011-01-03", "2011-01-03T10:00:00", datetime(2011, 1, 3), -1, 1.5, True, "soon", 10**30, "9" * 99],  # noqa: DTZ001
)
def test_a_start_without_an_offset_or_out_of_range_is_refused(start: object) -> None:
    assert list(wrong(market="x", start=start)) == ["start"]


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"market": "x", "speed": 2}, "speed"),
        ({"market": "x", "speed": 0, "clock": "present"}, "speed"),
        ({"market": "x", "speed": float("inf"), "clock": "present"}, "speed"),
        ({"market": "x", "clock": "present", "start": T}, "start"),
        ({"market": "x", "clock": "future"}, "clock"),
        ({}, "market"),
        ({"market": " "}, "market"),
        ({"market": "x", "series": [series("a.csv")]}, "market"),
        ({"market": "x", "loop": True}, "loop"),
    ],
)
def test_settings_that_do_not_fit_name_the_field(settings: dict[str, Any], field: str) -> None:
    assert list(wrong(**settings)) == [field]


def test_a_speed_for_history_alone_says_what_to_set() -> None:
    assert wrong(market="x", speed=2)["speed"] == [
        'All of it is history, which has no speed: set a start, or clock = "present".'
    ]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("file", "../a.csv"),
        ("file", "/etc/a.csv"),
        ("file", "sub/../../a.csv"),
        ("file", "a.txt"),
        ("file", "a\n.csv"),
        ("file", "a\0.csv"),
        ("symbol", ""),
        ("symbol", "\x1b[31m"),
        ("market", "a\nb"),
        ("name", "a\nb"),
        ("timeframe", "1 minute"),
    ],
)
def test_a_series_stays_inside_the_folder_and_is_printable(field: str, value: str) -> None:
    problems = wrong(series=[{**series("a.csv"), field: value}])
    assert list(problems["series"][0]) == [field]


# Opening


async def test_opening_tells_markets_symbols_and_timeframes(tmp_path: Path, minutes: list[Bar]) -> None:
    write(tmp_path, "gold.csv", [bar(T)])
    gold = {"file": "gold.csv", "market": "metals", "symbol": "XAU/USD", "timeframe": "4h"}
    write(tmp_path, "gold.csv", [bar(T - T % (4 * HOUR_MS))])
    made = plugin(tmp_path, ManualClock(NOW), series=[*BOTH, gold])
    assert made.markets == ["metals", "us_equity"]
    await made.open()
    assert [str(timeframe) for timeframe in made.timeframes] == ["1m", "1h", "4h"]
    assert [str(timeframe) for timeframe in made.timeframes_of("SPY")] == ["1m", "1h"]
    assert [str(timeframe) for timeframe in made.timeframes_of("XAU/USD")] == ["4h"]
    assert list(made.timeframes_of("IBM")) == []
    (info,) = await made.get_symbols("us_equity")
    assert (info.symbol, info.market, info.name) == ("SPY", "us_equity", "S&P 500 ETF")
    assert [info.symbol for info in await made.get_symbols("metals")] == ["XAU/USD"]
    assert await made.get_symbols("crypto") == []
    await made.close()


async def test_a_series_that_is_not_recorded_is_refused(tmp_path: Path, minutes: list[Bar]) -> None:
    async with opened(tmp_path, ManualClock(NOW), series=BOTH) as replay:
        with pytest.raises(Unsupported, match="SPY is recorded in 1m, 1h, and not in 5m"):
            await fetch(replay, 0, NOW, timeframe=Timeframe.parse("5m"))
        with pytest.raises(UnknownSymbol):
            await replay.fetch_ohlcv("IBM", MINUTE, 0, NOW, 10, {})
        with pytest.raises(Unsupported):
            await anext(replay.stream_bars("SPY", Timeframe.parse("5m")))


async def test_without_series_the_names_of_the_files_tell_what_they_are(tmp_path: Path) -> None:
    write(tmp_path, "bitfinex_BTCUSD_1m_2019-01.csv", [bar(T)])
    write(tmp_path, "bitfinex_BTCUSD_1m_2019-02.csv", [bar(T + MINUTE_MS)])
    write(tmp_path, "bitfinex_BTCUSD_1h.csv", [bar(T)])
    write(tmp_path, "ETH-EUR_1M.csv", [bar(1_293_840_000_000)])
    for ignored in ("README.md", "notes.csv", "_1m.csv", "BTC_1m.feather", "BTC\n_1m.csv"):
        (tmp_path / ignored).write_text("not a recording")
    (tmp_path / "folder_1m.csv").mkdir()
    async with opened(tmp_path, ManualClock(NOW), market="crypto") as replay:
        assert [info.symbol for info in await replay.get_symbols("crypto")] == [
            "ETH-EUR",
            "bitfinex_BTCUSD",
        ]
        assert [str(timeframe) for timeframe in replay.timeframes] == ["1m", "1h", "1M"]
        bars = await replay.fetch_ohlcv("bitfinex_BTCUSD", MINUTE, 0, NOW, 10, {})
        assert bars == [bar(T), bar(T + MINUTE_MS)]


async def test_a_folder_without_recordings_is_refused(tmp_path: Path) -> None:
    assert "no file called like BTCUSD_1m.csv" in await refused(tmp_path, market="crypto")
    (tmp_path / "BTC_99999y.csv").touch()
    assert "BTC_99999y.csv has no timeframe" in await refused(tmp_path, market="crypto")
    missing = await refused(tmp_path / "missing", market="crypto")
    assert missing == "The folder of the recordings cannot be read: No such file or directory."


async def test_files_of_one_series_are_joined_in_time_whatever_their_order(tmp_path: Path) -> None:
    (tmp_path / "old").mkdir()
    write(tmp_path, "b.csv", [bar(T + MINUTE_MS), bar(T + 2 * MINUTE_MS)])
    write(tmp_path, "old/a.csv", [bar(T)])
    files = [series("b.csv"), series("old/a.csv")]
    async with opened(tmp_path, ManualClock(NOW), series=files) as replay:
        assert await fetch(replay, 0, NOW) == [bar(T + i * MINUTE_MS) for i in range(3)]


async def test_files_that_overlap_and_a_symbol_in_two_markets_are_refused(tmp_path: Path) -> None:
    write(tmp_path, "a.csv", [bar(T), bar(T + 2 * MINUTE_MS)])
    write(tmp_path, "b.csv", [bar(T + 2 * MINUTE_MS)])
    write(tmp_path, "c.csv", [bar(T + MINUTE_MS)])
    for other in ("b.csv", "c.csv"):
        message = await refused(tmp_path, series=[series(other), series("a.csv")])
        assert message == f"a.csv and {other} overlap in time."
    message = await refused(tmp_path, series=[series("a.csv"), series("b.csv", market="crypto")])
    assert message == "SPY is in more than one market: one symbol is one instrument."


async def test_files_that_overlapped_are_read_anew_once_they_are_mended(tmp_path: Path) -> None:
    write(tmp_path, "a.csv", [bar(T)])
    write(tmp_path, "b.csv", [bar(T)])
    made = plugin(tmp_path, ManualClock(NOW), series=[series("a.csv"), series("b.csv")])
    with pytest.raises(ProviderFailed):
        await made.open()
    write(tmp_path, "b.csv", [bar(T + MINUTE_MS)])
    await made.open()
    assert await fetch(made, 0, NOW) == [bar(T), bar(T + MINUTE_MS)]
    await made.close()


async def test_months_are_served_at_their_own_times_but_not_against_now(tmp_path: Path) -> None:
    write(tmp_path, "a.csv", [bar(1_293_840_000_000), bar(1_296_518_400_000)])
    files = [series("a.csv", "1M")]
    async with opened(tmp_path, ManualClock(NOW), series=files) as replay:
        assert len(await fetch(replay, 0, NOW, timeframe=Timeframe.parse("1M"))) == 2
    message = await refused(tmp_path, series=files, clock="present")
    assert message == 'SPY cannot have clock = "present": months and years cannot be repeated.'


async def test_a_file_at_fault_fails_the_opening_and_the_next_attempt_goes_on_from_there(
    tmp_path: Path, minutes: list[Bar]
) -> None:
    write(tmp_path, "SPY_1h.csv", [bar(T + 1)])
    made = plugin(tmp_path, ManualClock(NOW), series=BOTH)
    with pytest.raises(ProviderFailed) as failure:
        await made.open()
    assert failure.value.message == "SPY_1h.csv, line 2: its time is not on the grid of 1h."
    (tmp_path / "SPY_1m.csv").unlink()  # it has been read
    write(tmp_path, "SPY_1h.csv", [bar(T)])
    await made.open()
    assert await fetch(made, 0, NOW) == minutes
    await made.close()


# clock = "recorded"


async def test_recorded_everything_is_history(tmp_path: Path, minutes: list[Bar]) -> None:
    async with opened(tmp_path, ManualClock(NOW), series=BOTH) as replay:
        assert replay.clock.now_ms() == NOW
        assert await fetch(replay, 0, NOW) == minutes
        (info,) = await replay.get_symbols("us_equity")
        assert (info.first_ms, info.last_ms) == (T, T + 2 * HOUR_MS)


async def test_a_page_is_the_first_bars_of_a_half_open_range(tmp_path: Path, minutes: list[Bar]) -> None:
    async with opened(tmp_path, ManualClock(NOW), series=BOTH) as replay:
        ten, twenty = T + 10 * MINUTE_MS, T + 20 * MINUTE_MS
        assert await fetch(replay, ten, twenty) == minutes[10:20]
        assert await fetch(replay, ten, twenty, limit=3) == minutes[10:13]
        assert await fetch(replay, ten + 1, twenty + 1) == minutes[11:21]
        assert await fetch(replay, ten, ten) == await fetch(replay, twenty, ten) == []
        gap = (T + 30 * MINUTE_MS, T + 40 * MINUTE_MS)
        assert await fetch(replay, *gap) == []
        assert await fetch(replay, gap[0], NOW, limit=1) == [minutes[30]]
        assert await fetch(replay, T + 2 * HOUR_MS, NOW) == []
        assert len(await fetch(replay, 0, NOW, timeframe=HOUR)) == 2


async def test_recorded_a_stream_waits_for_ever(tmp_path: Path, minutes: list[Bar]) -> None:
    clock = ManualClock(NOW)
    async with opened(tmp_path, clock, series=BOTH) as replay:
        stream = replay.stream_bars("SPY", MINUTE)
        waiting = next_of(stream)
        for _ in range(5):
            clock.advance(DAY_MS)
            await asyncio.sleep(0)
        assert not waiting.done()
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting


# clock = "recorded" with a start


async def test_a_replay_stands_at_its_start_and_runs_at_its_speed(
    tmp_path: Path, minutes: list[Bar]
) -> None:
    clock = ManualClock(NOW)
    start = T + 10 * MINUTE_MS
    async with opened(tmp_path, clock, series=BOTH, start=start, speed=60) as replay:
        assert replay.clock.now_ms() == start
        (info,) = await replay.get_symbols("us_equity")
        assert (info.first_ms, info.last_ms) == (T, None)
        assert [bar[0] for bar in await fetch(replay, 0, NOW)] == [bar[0] for bar in minutes[:11]]
        clock.advance(2_000)
        assert replay.clock.now_ms() == start + 2 * MINUTE_MS
        assert (await fetch(replay, 0, NOW))[:-1] == minutes[:12]


async def test_the_bar_that_holds_the_present_is_forming(tmp_path: Path, minutes: list[Bar]) -> None:
    clock = ManualClock(NOW)
    async with opened(tmp_path, clock, series=BOTH, start=T) as replay:
        assert await fetch(replay, 0, NOW) == [(T, 100.0, 100.0, 100.0, 100.0, 2.0)]
        clock.advance(15_000)
        assert await fetch(replay, 0, NOW) == [(T, 100.0, 100.0, 99.0, 99.0, 4.0)]
        clock.advance(15_000)
        assert await fetch(replay, 0, NOW) == [(T, 100.0, 103.0, 99.0, 103.0, 6.0)]
        clock.advance(15_000)
        assert await fetch(replay, 0, NOW) == [minutes[0]]
        clock.advance(15_000)
        assert (await fetch(replay, 0, NOW))[0] == minutes[0]


async def test_a_stream_gives_each_state_and_then_the_closed_bar_and_rests_after_the_last(
    tmp_path: Path, minutes: list[Bar]
) -> None:
    async with opened(
        tmp_path, JumpingClock(NOW), series=BOTH, start=T + 118 * MINUTE_MS + 20_000
    ) as replay:
        stream = replay.stream_bars("SPY", MINUTE)
        updates = [(await anext(stream), replay.clock.now_ms()) for _ in range(9)]
        rest = next_of(stream)
        await asyncio.sleep(0)
        assert not rest.done()
        rest.cancel()
    closed = [update.bar for update, _ in updates if update.closed]
    assert closed == minutes[-2:]
    assert [update.closed for update, _ in updates] == [False] * 3 + [True] + [False] * 4 + [True]
    # The replay's clock has steps of a millisecond beyond what is waited for, at the most.
    times = [now_ms - T - 118 * MINUTE_MS for _, now_ms in updates]
    expected = [20, 30, 45, 60, 60, 75, 90, 105, 120]
    assert all(0 <= t - s * 1000 <= 9 for t, s in zip(times, expected, strict=True))


async def test_the_stream_says_what_a_fetch_says_at_the_same_time(
    tmp_path: Path, minutes: list[Bar]
) -> None:
    async with opened(tmp_path, JumpingClock(NOW), series=BOTH, start=T, speed=100) as replay:
        stream = replay.stream_bars("SPY", MINUTE)
        for _ in range(110 * 5):
            update = await anext(stream)
            t_ms = update.bar[0]
            assert await fetch(replay, t_ms, t_ms + 1) == [update.bar]
        assert await fetch(replay, 0, NOW) == minutes


async def test_a_late_consumer_gets_every_closed_bar_in_order(
    tmp_path: Path, minutes: list[Bar]
) -> None:
    clock = ManualClock(NOW)
    async with opened(tmp_path, clock, series=BOTH, start=T) as replay:
        stream = replay.stream_bars("SPY", MINUTE)
        first = await anext(stream)
        assert first == BarUpdate((T, 100.0, 100.0, 100.0, 100.0, 2.0), False)
        clock.advance(50 * MINUTE_MS + 1_000)
        late = [await anext(stream) for _ in range(41)]
        assert late[:40] == [BarUpdate(bar, True) for bar in minutes[:40]]
        assert not late[40].closed
        assert late[40].bar[0] == T + 50 * MINUTE_MS
        waiting = next_of(stream)
        await asyncio.sleep(0)
        assert not waiting.done()
        clock.advance(14_100)
        assert not (await waiting).closed
        await stream.aclose()  # type: ignore[attr-defined]


async def test_no_bar_forms_in_a_gap(tmp_path: Path, minutes: list[Bar]) -> None:
    clock = ManualClock(NOW)
    async with opened(tmp_path, clock, series=BOTH, start=T + 35 * MINUTE_MS) as replay:
        assert (await fetch(replay, 0, NOW))[-1] == minutes[29]
        waiting = next_of(replay.stream_bars("SPY", MINUTE))
        await asyncio.sleep(0)
        clock.advance(5 * MINUTE_MS - 10)
        await asyncio.sleep(0)
        assert not waiting.done()
        clock.advance(11)
        assert (await waiting).bar[0] == T + 40 * MINUTE_MS


async def test_bars_without_prices_close_all_the_same(tmp_path: Path) -> None:
    bars: list[Bar] = [
        (T, None, None, None, None, None),
        (T + MINUTE_MS, None, 2.0, None, None, 4.0),
    ]
    write(tmp_path, "a.csv", bars)
    async with opened(tmp_path, JumpingClock(NOW), series=[series("a.csv")], start=T) as replay:
        assert await fetch(replay, 0, NOW) == []
        stream = replay.stream_bars("SPY", MINUTE)
        updates = [await anext(stream) for _ in range(3)]
    assert updates == [
        BarUpdate(bars[0], True),
        BarUpdate((T + MINUTE_MS, 2.0, 2.0, 2.0, 2.0, 4.0), False),
        BarUpdate(bars[1], True),
    ]


# clock = "present"


async def test_present_the_recording_reaches_up_to_now(tmp_path: Path, minutes: list[Bar]) -> None:
    async with opened(tmp_path, ManualClock(NOW), **PRESENT) as replay:
        bars = await fetch(replay, NOW - 24 * HOUR_MS, NOW + DAY_MS)
        assert len(bars) == pytest.approx(12 * 110, abs=20)
        assert bars[-1][0] <= NOW < bars[-1][0] + 11 * MINUTE_MS
        # Each hour pair is the recording's, 2011-01-03 10:00 to 12:00, and so is every value.
        by_offset = {bar[0] - T: bar[1:] for bar in minutes}
        assert all(by_offset[(bar[0] - T) % (2 * HOUR_MS)] == bar[1:] for bar in bars[:-1])
        (info,) = await replay.get_symbols("us_equity")
        assert info.first_ms == T - 20 * 366 * DAY_MS
        assert info.last_ms is None
        assert await fetch(replay, 0, info.first_ms) == []
        assert (await fetch(replay, 0, NOW, limit=1))[0][0] == info.first_ms


async def test_present_minutes_and_hours_lie_in_the_same_laps(
    tmp_path: Path, minutes: list[Bar]
) -> None:
    async with opened(tmp_path, ManualClock(NOW), **PRESENT) as replay:
        hours = await fetch(replay, NOW - DAY_MS, NOW - 2 * HOUR_MS, timeframe=HOUR)
        firsts = {bar[0]: bar[1] for bar in await fetch(replay, NOW - DAY_MS, NOW)}
        assert {(bar[1], firsts[bar[0]]) for bar in hours} == {(300.0, 100.0), (400.0, 160.0)}


@given(st.integers(0, 10 * DAY_MS), st.integers(0, DAY_MS), st.integers(1, 200))
def test_present_history_does_not_depend_on_when_it_was_opened(
    tmp_path_factory: pytest.TempPathFactory, later_ms: int, since_ago: int, limit: int
) -> None:
    folder = tmp_path_factory.mktemp("recordings")
    write(folder, "SPY_1m.csv", [bar(T + i * MINUTE_MS, 100.0 + i) for i in range(77)])

    async def page(now_ms: int) -> Sequence[Bar]:
        async with opened(folder, ManualClock(now_ms), clock="present", market="us_equity") as replay:
            return await fetch(replay, NOW - since_ago, NOW - NOW % MINUTE_MS, limit)

    assert asyncio.run(page(NOW)) == asyncio.run(page(NOW + later_ms))


async def test_present_the_stream_runs_over_the_seam_of_two_laps(tmp_path: Path) -> None:
    bars = [bar(T + i * MINUTE_MS, 100.0 + i) for i in range(25 * 60)]  # laps of two days
    write(tmp_path, "a.csv", bars)
    lap_start = T + 2000 * 2 * DAY_MS
    clock = JumpingClock(lap_start + 25 * HOUR_MS - MINUTE_MS)
    async with opened(tmp_path, clock, clock="present", series=[series("a.csv")]) as replay:
        stream = replay.stream_bars("SPY", MINUTE)
        closed: list[Bar] = []
        while len(closed) < 3:
            update = await anext(stream)
            if update.closed:
                closed.append(update.bar)
        await stream.aclose()  # type: ignore[attr-defined]
    next_lap = lap_start + 2 * DAY_MS
    assert closed == [
        (lap_start + 25 * HOUR_MS - MINUTE_MS, *bars[-1][1:]),
        (next_lap, *bars[0][1:]),
        (next_lap + MINUTE_MS, *bars[1][1:]),
    ]


async def test_present_at_speed_the_clock_begins_at_now(tmp_path: Path, minutes: list[Bar]) -> None:
    clock = ManualClock(NOW)
    async with opened(tmp_path, clock, **PRESENT, speed=10) as replay:
        assert replay.clock.now_ms() == NOW
        clock.advance(1_000)
        assert replay.clock.now_ms() == NOW + 10_000
