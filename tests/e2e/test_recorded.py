"""Real recorded bars through the whole daemon: equal to their files, and to independent sums of them."""

from __future__ import annotations

import csv
import gzip
import itertools
import math
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.recorded

Launch = Callable[..., Any]
Row = list[float | None]

BUCKETS: dict[str, Callable[[datetime], tuple[int, ...]]] = {
    "5m": lambda at: (*at.timetuple()[:4], at.minute // 5),
    "1h": lambda at: at.timetuple()[:4],
    "1d": lambda at: at.timetuple()[:3],
    "1w": lambda at: at.isocalendar()[:2],
    "1M": lambda at: at.timetuple()[:2],
}


def rows_of(path: Path) -> list[Row]:
    """The file, as the csv module reads it."""
    with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
        reader = csv.reader(file)
        next(reader)
        return [
            [int(row[0]), *(float(value) if value else None for value in row[1:6])] for row in reader
        ]


def summed(rows: list[Row], bucket: Callable[[datetime], tuple[int, ...]]) -> list[tuple[Any, ...]]:
    """open, high, low, close and volume of every bucket, by the standard library's calendar."""
    buckets: dict[tuple[int, ...], list[Row]] = {}
    for row in rows:
        assert row[0] is not None
        buckets.setdefault(bucket(datetime.fromtimestamp(row[0] / 1000, UTC)), []).append(row)
    return [
        (
            members[0][1],
            max(row[2] for row in members if row[2] is not None),
            min(row[3] for row in members if row[3] is not None),
            members[-1][4],
            math.fsum(row[5] for row in members if row[5] is not None),
        )
        for members in buckets.values()
    ]


async def whole(daemon: Any, symbol: str, timeframe: str, **query: Any) -> list[Row]:
    """Every bar since 1990, page by page."""
    bars: list[Row] = []
    token: dict[str, str] = {}
    while True:
        page = await daemon.get(
            "/api/v1/ohlcv",
            market="m",
            provider="files",
            symbol=symbol,
            timeframe=timeframe,
            **{"since": "1990-01-01T00:00:00Z", "limit": 10_000, **query, **token},
        )
        assert page["complete"], page["gaps"]
        bars += page["bars"]
        if page["next_page_token"] is None:
            return bars
        token = {"page_token": page["next_page_token"]}


def provider(recordings: Path, *files: tuple[str, str, str]) -> str:
    """A replay provider of these (file, symbol, timeframe)."""
    series = "".join(
        f'[[providers.files.series]]\nfile = "{file}.csv.gz"\nmarket = "m"\n'
        f'symbol = "{symbol}"\ntimeframe = "{timeframe}"\n'
        for file, symbol, timeframe in files
    )
    folder = (recordings / "bars").resolve()
    return f'[providers.files]\nplugin = "replay"\npath = "{folder}"\nclock = "recorded"\n{series}'


def holes(rows: list[Row], step_ms: int) -> tuple[int, int, int]:
    """(missing bars, gaps, the largest gap) on the plain grid between the first and the last row."""
    times = [int(row[0] or 0) for row in rows]
    steps = [(later - earlier) // step_ms - 1 for earlier, later in itertools.pairwise(times)]
    return sum(steps), sum(step > 0 for step in steps), max(steps)


async def test_a_year_of_bitfinex_minutes(launch: Launch, recordings: Path) -> None:
    rows = rows_of(recordings / "bars/bitfinex_BTCUSD_1m_2019.csv.gz")
    assert len(rows) == 512_727
    daemon = await launch(provider(recordings, ("bitfinex_BTCUSD_1m_2019", "BTC/USD", "1m")))
    served = await whole(daemon, "BTC/USD", "1m")
    assert served == rows
    assert holes(served, 60_000) == (12_873, 9_955, 3 * 60 + 17)
    for timeframe in ("1h", "1M"):
        found, wanted = await whole(daemon, "BTC/USD", timeframe), summed(rows, BUCKETS[timeframe])
        assert [tuple(bar[1:5]) for bar in found] == [one[:4] for one in wanted], timeframe
        assert [bar[5] for bar in found] == pytest.approx([one[4] for one in wanted], rel=1e-9)
    # Two timeframes later the provider has sent each bar once.
    assert await daemon.metric("marketd_bars_stored_total") == len(rows)

    await daemon.kill()
    daemon = await launch(provider(recordings, ("bitfinex_BTCUSD_1m_2019", "BTC/USD", "1m")))
    newest = await daemon.get(
        "/api/v1/ohlcv", market="m", provider="files", symbol="BTC/USD", timeframe="1m", limit=10_000
    )
    assert newest["bars"] == rows[-10_000:]
    assert await daemon.metric("marketd_provider_fetch_seconds_count") == 0


async def test_a_month_of_spy_minutes_with_sessions_and_weekends(
    launch: Launch, recordings: Path
) -> None:
    rows = rows_of(recordings / "bars/SPY_1m_2011-01.csv.gz")
    daemon = await launch(provider(recordings, ("SPY_1m_2011-01", "SPY", "1m")))
    served = await whole(daemon, "SPY", "1m")
    assert served == rows
    assert holes(served, 60_000) == (27_100, 1_435, (3 * 24 + 8) * 60 + 7)
    for timeframe, bucket in BUCKETS.items():
        found, wanted = await whole(daemon, "SPY", timeframe), summed(rows, bucket)
        assert [tuple(bar[1:]) for bar in found] == wanted, timeframe


async def test_seconds_make_the_minutes_that_the_exchange_published(
    launch: Launch, recordings: Path
) -> None:
    seconds = rows_of(recordings / "bars/coinbase_BTCUSD_1s_2016-10.csv.gz")
    minutes = rows_of(recordings / "bars/coinbase_BTCUSD_1m_2016-10.csv.gz")
    assert len(minutes) == 4_216
    daemon = await launch(provider(recordings, ("coinbase_BTCUSD_1s_2016-10", "BTCUSD", "1s")))
    assert await whole(daemon, "BTCUSD", "1s") == seconds
    made = await whole(daemon, "BTCUSD", "1m")
    assert [bar[:5] for bar in made] == [row[:5] for row in minutes]
    assert [bar[5] for bar in made] == pytest.approx([row[5] for row in minutes], rel=1e-9)


async def test_hours_of_23_years_make_the_days_that_were_published(
    launch: Launch, recordings: Path
) -> None:
    hours = rows_of(recordings / "bars/SPY_1h.csv.gz")
    days = rows_of(recordings / "bars/SPY_1d.csv.gz")
    daemon = await launch(provider(recordings, ("SPY_1h", "SPY", "1h")))
    assert await whole(daemon, "SPY", "1h") == hours
    made = await whole(daemon, "SPY", "1d")
    assert len(made) == 5_849
    # The session of a New York day lies within one day of UTC, whatever the clocks were doing.
    assert [bar[1:] for bar in made] == [row[1:] for row in days]


async def test_an_empty_volume_is_null(launch: Launch, recordings: Path) -> None:
    rows = rows_of(recordings / "bars/fxcm_GBPUSD_1m_bidask_2012-02.csv.gz")
    daemon = await launch(provider(recordings, ("fxcm_GBPUSD_1m_bidask_2012-02", "GBP/USD", "1m")))
    served = await whole(daemon, "GBP/USD", "1m")
    assert served == rows
    assert {bar[5] for bar in served} == {None}
    hours = await whole(daemon, "GBP/USD", "1h")
    assert {bar[5] for bar in hours} == {None}


async def test_a_recording_laid_against_the_present_is_live(launch: Launch, recordings: Path) -> None:
    text = provider(recordings, ("binance_BTCBUSD_1m_2022-12-13", "BTCBUSD", "1m"))
    daemon = await launch(text.replace('clock = "recorded"', 'clock = "present"'))
    newest = await daemon.get(
        "/api/v1/ohlcv", market="m", provider="files", symbol="BTCBUSD", timeframe="1m", limit=2_000
    )
    now_ms = datetime.now(UTC).timestamp() * 1000
    assert len(newest["bars"]) == 2_000
    assert newest["bars"][-1][0] <= now_ms < newest["bars"][-1][0] + 65_000
    # One day, repeated: the same minute of yesterday has the same bar.
    by_time = {bar[0]: bar[1:] for bar in newest["bars"]}
    minute = newest["bars"][100][0]
    assert by_time[minute + 86_400_000] == by_time[minute]
