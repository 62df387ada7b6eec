"""The replay provider over real recordings: counts, ends and gaps as their README tells them."""

from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import pytest

from marketd.clock import ManualClock
from marketd.domain.bar import Bar
from marketd.domain.errors import ProviderFailed
from marketd.domain.resample import resample
from marketd.domain.timeframe import DAY_MS, Timeframe
from marketd.plugins import PluginContext
from marketd.plugins.replay import ReplayPlugin
from marketd.plugins.replay.settings import ReplaySettings

pytestmark = pytest.mark.recorded

NOW = 1_750_000_123_456


def at(text: str) -> int:
    return round(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)


def provider(recordings: Path, timeframes: dict[str, str], **settings: object) -> ReplayPlugin:
    """One symbol, `S`, of the files that `timeframes` names."""
    series = [
        {"file": f"{file}.csv.gz", "market": "m", "symbol": "S", "timeframe": timeframe}
        for file, timeframe in timeframes.items()
    ]
    loaded = ReplaySettings().load({"path": str(recordings / "bars"), "series": series, **settings})
    return ReplayPlugin(PluginContext("files", ManualClock(NOW), loaded))


async def everything(replay: ReplayPlugin, timeframe: Timeframe, until: int = NOW) -> list[Bar]:
    """All bars, page by page, as a reader walks them."""
    bars: list[Bar] = []
    since = 0
    while page := await replay.fetch_ohlcv("S", timeframe, since, until, replay.page_limit, {}):
        bars += page
        since = page[-1][0] + 1
    return bars


def holes(bars: Sequence[Bar], timeframe: Timeframe) -> list[tuple[int, int]]:
    """The time of the last bar before each hole, and how many bars are missing."""
    step = timeframe.nominal_ms
    return [
        (one[0], (other[0] - one[0]) // step - 1)
        for one, other in pairwise(bars)
        if other[0] - one[0] > step
    ]


@pytest.mark.parametrize(
    ("file", "timeframe", "first", "last", "count", "missing", "gaps", "largest"),
    [
        (
            "SPY_1m_2011-01", "1m", "2011-01-03 09:00:00", "2011-02-01 00:59:00",
            14_180, 27_100, 1_435, ("2011-01-15 00:59:00", (3 * 24 + 8) * 60 + 7),
        ),
        (
            "coinbase_BTCUSD_1s_2016-10", "1s", "2016-10-07 00:00:04", "2016-10-09 23:59:58",
            11_520, 247_675, 10_910, ("2016-10-09 07:32:00", 242),
        ),
        (
            "SPY_1h", "1h", "1998-01-02 14:00:00", "2021-03-31 19:00:00",
            40_832, 162_910, 5_848, ("2001-09-10 19:00:00", 6 * 24 + 17),
        ),
        (
            "fxcm_GBPUSD_1m_bidask_2012-02", "1m", "2012-02-01 00:00:00", "2012-03-01 00:00:00",
            30_117, 11_644, 111, ("2012-02-10 21:58:00", 2 * 24 * 60 + 2),
        ),
    ],
)  # fmt: skip
async def test_a_recording_is_served_whole_with_its_gaps(
    recordings: Path,
    file: str,
    timeframe: str,
    first: str,
    last: str,
    count: int,
    missing: int,
    gaps: int,
    largest: tuple[str, int],
) -> None:
    of = Timeframe.parse(timeframe)
    replay = provider(recordings, {file: timeframe})
    await replay.open()
    bars = await everything(replay, of)
    await replay.close()
    assert len(bars) == count
    assert (bars[0][0], bars[-1][0]) == (at(first), at(last))
    found = holes(bars, of)
    assert (len(found), sum(length for _, length in found)) == (gaps, missing)
    after_ms, length = max(found, key=lambda hole: hole[1])
    assert (after_ms // 60_000, length) == (at(largest[0]) // 60_000, largest[1])


async def test_values_are_those_of_the_file(recordings: Path) -> None:
    replay = provider(recordings, {"SPY_1m_2011-01": "1m"})
    await replay.open()
    first, second = await replay.fetch_ohlcv("S", Timeframe.parse("1m"), 0, NOW, 2, {})
    await replay.close()
    assert first == (1294045200000, 126.35, 126.39, 126.35, 126.39, 1579.0)
    assert second == (1294045260000, 126.45, 126.45, 126.45, 126.45, 300.0)


async def test_an_empty_volume_is_none(recordings: Path) -> None:
    replay = provider(recordings, {"fxcm_GBPUSD_1m_bidask_2012-02": "1m"})
    await replay.open()
    bars = await everything(replay, Timeframe.parse("1m"))
    await replay.close()
    assert {bar[5] for bar in bars} == {None}
    assert bars[0] == (1328054400000, 1.57597, 1.57606, 1.57576, 1.57576, None)


async def test_seconds_and_minutes_of_one_symbol_agree_in_every_lap(recordings: Path) -> None:
    files = {"coinbase_BTCUSD_1s_2016-10": "1s", "coinbase_BTCUSD_1m_2016-10": "1m"}
    second, minute = Timeframe.parse("1s"), Timeframe.parse("1m")
    replay = provider(recordings, files, clock="present")
    await replay.open()
    since = minute.floor(NOW - 3 * DAY_MS)
    until = minute.floor(NOW)
    seconds: list[Bar] = []
    while page := await replay.fetch_ohlcv("S", second, since, until, replay.page_limit, {}):
        seconds += page
        since = page[-1][0] + 1
    first = minute.floor(seconds[0][0])
    minutes = await replay.fetch_ohlcv("S", minute, first, until, replay.page_limit, {})
    await replay.close()
    assert len(minutes) == 4_216
    made = resample(seconds, minute)
    assert [bar[:5] for bar in made] == [bar[:5] for bar in minutes]
    assert [bar[5] for bar in made] == pytest.approx([bar[5] for bar in minutes])


async def test_days_of_new_york_are_off_the_utc_grid_and_refused(recordings: Path) -> None:
    replay = provider(recordings, {"SPY_1d": "1d"})
    with pytest.raises(ProviderFailed) as failure:
        await replay.open()
    assert failure.value.message == "SPY_1d.csv.gz, line 2: its time is not on the grid of 1d."


async def test_a_week_of_sessions_keeps_its_weekdays_against_the_present(recordings: Path) -> None:
    replay = provider(recordings, {"SPY_1m_2011-01": "1m"}, clock="present")
    await replay.open()
    bars = await replay.fetch_ohlcv("S", Timeframe.parse("1m"), NOW - 40 * DAY_MS, NOW, 10_000, {})
    await replay.close()
    days = {datetime.fromtimestamp(bar[0] / 1000, UTC).weekday() for bar in bars}
    hours = {datetime.fromtimestamp(bar[0] / 1000, UTC).hour for bar in bars}
    assert days == {0, 1, 2, 3, 4, 5}  # the post-market session of Friday ends on Saturday, UTC
    assert hours.isdisjoint({2, 3, 4, 5, 6, 7, 8})
