"""Bars out of trades, against the plainest way to make them."""

from __future__ import annotations

import csv
import gzip
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketd.domain.bar import Bar, Tick, open_time
from marketd.domain.tick_bars import bars_of_ticks
from marketd.domain.timeframe import Timeframe

TICKS = st.lists(
    st.tuples(
        st.integers(0, 200_000),
        st.floats(1e-8, 1e8),
        st.floats(0, 1e8),
        st.sampled_from(["buy", "sell", ""]),
        st.just(""),
    ),
    max_size=40,
)
TIMEFRAMES = st.sampled_from(["1s", "7s", "1m", "1h"]).map(Timeframe.parse)


def plainly(ticks: list[Tick], timeframe: Timeframe) -> list[Bar]:
    buckets: dict[int, list[Tick]] = {}
    for tick in ticks:
        buckets.setdefault(timeframe.floor(tick[0]), []).append(tick)
    return [
        (
            t_ms,
            inside[0][1],
            max(tick[1] for tick in inside),
            min(tick[1] for tick in inside),
            inside[-1][1],
            float(sum(Fraction(tick[2]) for tick in inside)),
        )
        for t_ms, inside in sorted(buckets.items())
    ]


@given(ticks=TICKS, timeframe=TIMEFRAMES)
def test_bars_are_those_of_the_plainest_way(ticks: list[Tick], timeframe: Timeframe) -> None:
    ticks = sorted(ticks, key=open_time)
    assert bars_of_ticks(ticks, timeframe) == plainly(ticks, timeframe)


@given(ticks=TICKS, data=st.data())
def test_the_order_in_which_trades_came_changes_nothing(ticks: list[Tick], data: Any) -> None:
    # Of two in one millisecond the order is all that tells them apart: here there are none.
    ticks = sorted({tick[0]: tick for tick in ticks}.values())
    shuffled = data.draw(st.permutations(ticks))
    minute = Timeframe.parse("1m")
    assert bars_of_ticks(sorted(shuffled, key=open_time), minute) == bars_of_ticks(ticks, minute)


def rows(path: Path) -> list[list[str]]:
    with gzip.open(path, "rt", encoding="utf-8", newline="") as lines:
        return list(csv.reader(lines))[1:]


@pytest.mark.recorded
@pytest.mark.parametrize(
    ("trades", "bars", "ends"),
    [
        ("binance_XRPETH_2019-10", "binance_XRPETH_1m_2019-10", 0),
        ("kraken_XBTUSDT_2025-11-10", "kraken_XBTUSDT_1m_2025-11-10", 1),
    ],
)
def test_the_bars_of_recorded_trades_are_those_of_the_exchange(
    recordings: Path, trades: str, bars: str, ends: int
) -> None:
    ticks: list[Tick] = [
        (int(row[0]), float(row[1]), float(row[2]), row[3], row[4])
        for row in rows(recordings / "ticks" / f"{trades}.csv.gz")
    ]
    made = bars_of_ticks(ticks, Timeframe.parse("1m"))[ends:]
    made = made[: len(made) - ends]
    told = {
        int(row[0]): tuple(map(float, row[1:6])) for row in rows(recordings / "bars" / f"{bars}.csv.gz")
    }
    assert len(made) > 200
    for t_ms, *values in made:
        assert values == pytest.approx(told[t_ms], rel=1e-12)
