"""Whatever an exchange means by "since", no bar is lost, and no silence is taken for proof."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from marketd_ccxt.paging import first_bars

from marketd.domain.bar import Bar
from marketd.domain.errors import HistoryEnds
from marketd.domain.resample import resample
from marketd.domain.timeframe import Timeframe

MINUTE, HOUR = Timeframe.parse("1m"), Timeframe.parse("1h")
M = 60_000
SIZE = 5
END = 400  # the present, in minutes

Page = Callable[[list[Bar], Timeframe, int], list[Bar]]


def first_from(bars: list[Bar], timeframe: Timeframe, since: int) -> list[Bar]:
    """As Binance: the first bars from there, however far away."""
    return [bar for bar in bars if bar[0] >= since][:SIZE]


def stretch(bars: list[Bar], timeframe: Timeframe, since: int) -> list[Bar]:
    """As Coinbase: what lies in the stretch that a page would fill."""
    end_ms = timeframe.shift(timeframe.ceil(since), SIZE)
    return [bar for bar in bars if since <= bar[0] < end_ms]


def newest(bars: list[Bar], timeframe: Timeframe, since: int) -> list[Bar]:
    """As Kraken: its newest bars, and no older ones."""
    return [bar for bar in bars[-SIZE:] if bar[0] >= since]


def bar(minute: int) -> Bar:
    return (minute * M, 1.0, 2.0, 0.5, 1.0, 1.0)


async def ask_all(page: Page, minutes: set[int], since: int, before: int, limit: int) -> list[Bar]:
    bars = [bar(minute) for minute in sorted(minutes)]

    async def ask(timeframe: Timeframe, since_ms: int) -> list[Bar]:
        known = bars if timeframe == MINUTE else resample(bars, timeframe)
        return page(known, timeframe, since_ms)

    return await first_bars(
        ask, MINUTE, since, before, limit, size=SIZE, coarse=HOUR, now_ms=END * M + 1
    )


@given(
    page=st.sampled_from([first_from, stretch, newest]),
    minutes=st.sets(st.integers(0, END), max_size=60) | st.just(set(range(END + 1))),
    since=st.integers(0, END * M),
    length=st.integers(0, END * M * 2),
    limit=st.integers(1, SIZE),
)
def test_what_is_told_is_all_there_is(
    page: Page, minutes: set[int], since: int, length: int, limit: int
) -> None:
    before = since + length
    try:
        found = asyncio.run(ask_all(page, minutes, since, before, limit))
    except HistoryEnds as end:
        # Whoever asks again from there gets everything from there on.
        first_ms = end.first_ms
        assert first_ms > since
        assert first_ms // M in minutes
        since = first_ms
        found = asyncio.run(ask_all(page, minutes, since, before, limit))
    truth = [bar(minute) for minute in sorted(minutes) if since <= minute * M < before]
    assert found == truth[:limit]


def test_a_short_memory_is_told_and_not_taken_for_silence() -> None:
    with pytest.raises(HistoryEnds) as end:
        asyncio.run(ask_all(newest, set(range(END + 1)), 0, END * M, SIZE))
    assert end.value.first_ms == (END + 1 - SIZE) * M


@pytest.mark.parametrize("page", [first_from, stretch])
def test_a_long_empty_stretch_is_crossed_in_few_requests(page: Page) -> None:
    asked = []

    def counted(bars: list[Bar], timeframe: Timeframe, since: int) -> list[Bar]:
        asked.append(since)
        return page(bars, timeframe, since)

    assert asyncio.run(ask_all(counted, {END - 1}, 0, END * M, SIZE)) == [bar(END - 1)]
    assert len(asked) <= 16
