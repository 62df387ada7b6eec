"""Bars of so many trades or so much volume."""

from __future__ import annotations

from bisect import bisect_right
from decimal import Decimal
from itertools import groupby

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketd.domain.bar import Bar, Tick, open_time
from marketd.domain.errors import InvalidInput
from marketd.domain.tickframe import TickBarMaker, Tickframe
from marketd.domain.timeframe import DAY_MS

# About midnight, with many trades a millisecond.
TICKS = st.lists(
    st.tuples(
        st.integers(DAY_MS - 30, DAY_MS + 30),
        st.sampled_from([99.5, 100.0, 100.25, 101.0]),
        st.sampled_from([0.0, 0.1, 0.7, 1.0, 12.345]),
        st.just(""),
        st.just(""),
    ),
    max_size=60,
).map(lambda ticks: sorted(ticks, key=open_time))
FRAMES = st.sampled_from(["1t", "3t", "10t", "0.1v", "2.1v", "5v"]).map(Tickframe.parse)


def bars_of(ticks: list[Tick], frame: Tickframe) -> list[Bar]:
    maker = TickBarMaker(frame)
    closed = maker.take(ticks)
    return closed if maker.forming is None else [*closed, maker.forming]


def held(ticks: list[Tick], bars: list[Bar]) -> list[list[Tick]]:
    """The trades from each bar's time on, up to the next one's."""
    starts = [bar[0] for bar in bars]
    return [list(of_bar) for _, of_bar in groupby(ticks, lambda tick: bisect_right(starts, tick[0]))]


def amount(ticks: list[Tick], frame: Tickframe) -> Decimal:
    return (
        Decimal(len(ticks))
        if frame.unit == "t"
        else sum((Decimal(str(one[2])) for one in ticks), Decimal())
    )


@given(ticks=TICKS, frame=FRAMES)
def test_every_trade_is_in_one_bar_and_a_bar_holds_no_more_than_it_must(
    ticks: list[Tick], frame: Tickframe
) -> None:
    bars = bars_of(ticks, frame)
    pieces = held(ticks, bars)
    assert sum(map(len, pieces)) == len(ticks)
    assert [bar[0] for bar in bars] == sorted({bar[0] for bar in bars})
    for number, (bar, inside) in enumerate(zip(bars, pieces, strict=True)):
        prices = [tick[1] for tick in inside]
        volume = float(amount(inside, Tickframe(Decimal(1), "v")))
        assert bar == (inside[0][0], prices[0], max(prices), min(prices), prices[-1], volume)
        before_its_last_ms = [tick for tick in inside if tick[0] < inside[-1][0]]
        assert amount(before_its_last_ms, frame) < frame.size
        is_last = number + 1 == len(bars) or bars[number + 1][0] // DAY_MS != bar[0] // DAY_MS
        assert is_last or amount(inside, frame) >= frame.size


@given(ticks=TICKS, frame=FRAMES, data=st.data())
def test_it_does_not_matter_in_what_pieces_trades_come(
    ticks: list[Tick], frame: Tickframe, data: st.DataObject
) -> None:
    maker = TickBarMaker(frame)
    bars: list[Bar] = []
    rest = ticks
    while rest:
        count = data.draw(st.integers(1, len(rest)))
        looking_ahead = maker.copy()
        looking_ahead.take(rest)
        bars += maker.take(rest[:count])
        rest = rest[count:]
    assert [*bars, *filter(None, [maker.forming])] == bars_of(ticks, frame)


@given(ticks=TICKS, frame=FRAMES)
def test_a_bar_and_those_after_it_do_not_depend_on_what_came_before(
    ticks: list[Tick], frame: Tickframe
) -> None:
    bars = bars_of(ticks, frame)
    for number, bar in enumerate(bars):
        assert bars_of([tick for tick in ticks if tick[0] >= bar[0]], frame) == bars[number:]


def test_what_is_missing_ends_a_bar() -> None:
    maker = TickBarMaker(Tickframe.parse("10t"))
    assert maker.take([(1, 1.0, 1.0, "", ""), (2, 2.0, 1.0, "", "")]) == []
    maker.cut()
    assert maker.take([(5, 3.0, 1.0, "", "")]) == [(1, 1.0, 2.0, 1.0, 2.0, 2.0)]
    assert maker.take([(6, 3.0, 1.0, "", "")]) == []


def test_volumes_add_up_as_they_are_written() -> None:
    ticks = [(ms, 1.0, 0.7, "", "") for ms in range(4)]
    assert [bar[5] for bar in bars_of(ticks, Tickframe.parse("2.1v"))] == [2.1, 0.7]


@pytest.mark.parametrize(
    ("text", "shown"),
    [("100t", "100t"), ("2.50v", "2.5v"), ("0.00000001v", "0.00000001v"), ("50v", "50v")],
)
def test_it_is_written_in_one_way(text: str, shown: str) -> None:
    assert str(Tickframe.parse(text)) == shown


@pytest.mark.parametrize(
    "text", ["", "0t", "0v", "t", "1.5t", "-1v", "1e3v", "10000000t", "1m", "١t", "1v\n"]
)
def test_what_is_none_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput, match="100t"):
        Tickframe.parse(text)
