"""The contract of a store: coarser bars are what the resampler gives, whatever was computed ahead.

The volumes here are dyadic, so that their sums are exact in whatever order a database adds them up.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pages import EVER, NAN, SERIES, opened, put
from scripted import INSTRUMENT, MINUTE, START, M

from marketd.domain.bar import Bar
from marketd.domain.instrument import Series
from marketd.domain.resample import resample
from marketd.domain.timeframe import DAY_MS, Timeframe
from marketd.domain.timerange import TimeRange
from marketd.storage import Storage

HOUR, DAY = Timeframe.parse("1h"), Timeframe.parse("1d")
TARGETS = tuple(map(Timeframe.parse, ("5m", "7m", "1h", "4h", "1d", "1w", "1M", "3M", "1y")))
VALUES = st.sampled_from([1.0, 2.5, 2.5, 0.75, None, NAN, math.inf, -math.inf])
# Minutes of eight days around the end of a month, an hour or a day apart as well as neighbours.
MINUTES = st.one_of(
    st.integers(0, 200), st.integers(0, 8 * 1440), st.integers(0, 190).map(lambda h: h * 60)
)
FIRST = START - 5 * DAY_MS - 90 * M
PAGES = st.dictionaries(MINUTES, st.tuples(*[VALUES] * 5), max_size=30).map(
    lambda rows: [(FIRST + minute * M, *rows[minute]) for minute in sorted(rows)]
)
SPANS = st.one_of(
    st.just(EVER),
    st.tuples(MINUTES, MINUTES).map(lambda ends: TimeRange(*(FIRST + end * M for end in sorted(ends)))),
)
QUESTIONS = st.tuples(st.sampled_from(TARGETS), SPANS, st.integers(0, 40), st.booleans())


def by_definition(
    bars: Sequence[Bar], timeframe: Timeframe, span: TimeRange, limit: int, newest: bool
) -> list[Bar]:
    start, end = timeframe.ceil(span.start_ms), timeframe.floor(span.end_ms)
    whole = resample([bar for bar in bars if start <= bar[0] < end], timeframe)
    return whole[max(0, len(whole) - limit) :] if newest else whole[:limit]


def dense(minutes: int, first_ms: int = START) -> list[Bar]:
    return [
        (first_ms + n * M, float(n % 13), 20.0 + n % 7, -(n % 5), float(n % 11), (n % 64) / 4)
        for n in range(minutes)
    ]


@given(steps=st.lists(st.tuples(PAGES, st.booleans(), st.lists(QUESTIONS, max_size=4)), max_size=5))
@settings(max_examples=60)
async def test_an_aggregate_is_what_the_resampler_gives_whatever_was_asked_or_stored_before(
    new_database: Callable[[], Callable[[], Storage]],
    steps: list[tuple[list[Bar], bool, list[tuple[Timeframe, TimeRange, int, bool]]]],
) -> None:
    stored: dict[int, Bar] = {}
    async with opened(new_database()) as storage:
        for bars, refreshed, questions in steps:
            await put(storage, bars)
            stored |= {bar[0]: bar for bar in bars}
            if refreshed:
                await storage.refresh()
            everything = [stored[t] for t in sorted(stored)]
            for timeframe, span, limit, newest in questions:
                found = await storage.aggregate(SERIES, timeframe, span, limit=limit, newest=newest)
                wanted = by_definition(everything, timeframe, span, limit, newest)
                assert repr(found) == repr(wanted), (timeframe, span, limit, newest)


@pytest.mark.parametrize("newest", [False, True])
async def test_a_long_series_is_aggregated_from_the_wanted_end(storage: Storage, newest: bool) -> None:
    bars = dense(50 * 1440)
    await put(storage, bars)
    for limit in (1, 30, 1_000, 1_000):
        for timeframe in (HOUR, DAY, Timeframe.parse("1w"), Timeframe.parse("1M")):
            found = await storage.aggregate(SERIES, timeframe, EVER, limit=limit, newest=newest)
            assert found == by_definition(bars, timeframe, EVER, limit, newest)


@pytest.mark.parametrize("value", [5.0, None, NAN])
async def test_a_revised_bar_is_in_the_aggregates_at_once(storage: Storage, value: float | None) -> None:
    bars = dense(3 * 1440)
    await put(storage, bars)
    await storage.refresh()
    bars[2_000] = (bars[2_000][0], value, value, value, value, value)
    await put(storage, [bars[2_000]])
    for _ in range(2):
        for timeframe in (HOUR, DAY):
            found = await storage.aggregate(SERIES, timeframe, EVER, limit=100)
            assert repr(found) == repr(by_definition(bars, timeframe, EVER, 100, False))
        await storage.refresh()


async def test_aggregates_of_one_series_are_not_those_of_another(storage: Storage) -> None:
    other = Series(INSTRUMENT, MINUTE, "adjustment=raw")
    await put(storage, dense(200))
    await put(storage, dense(1440, START + DAY_MS), series=other)
    await storage.refresh()
    for series, bars in ((SERIES, dense(200)), (other, dense(1440, START + DAY_MS))):
        found = await storage.aggregate(series, HOUR, EVER, limit=100)
        assert found == by_definition(bars, HOUR, EVER, 100, False)
    assert await storage.aggregate(Series(INSTRUMENT, MINUTE, "none"), HOUR, EVER, limit=100) == []


async def test_a_coarser_base_is_aggregated_too(storage: Storage) -> None:
    daily = Series(INSTRUMENT, DAY)
    bars: list[Bar] = [(START + n * DAY_MS, 1.0, 2.0, 0.5, 1.5, float(n)) for n in range(800)]
    await put(storage, bars, series=daily)
    for name in ("1w", "1M", "1y", "2d"):
        found = await storage.aggregate(daily, Timeframe.parse(name), EVER, limit=10, newest=True)
        assert found == by_definition(bars, Timeframe.parse(name), EVER, 10, True)


async def test_a_refresh_may_be_of_a_part_and_leaves_every_answer_as_it_was(
    database: Callable[[], Storage],
) -> None:
    bars = dense(4 * 1440)
    async with opened(database) as storage:
        assert await storage.refresh() == 0
        await put(storage, bars)
        span = TimeRange(START + DAY_MS, START + 2 * DAY_MS)
        assert await storage.refresh(Series(INSTRUMENT, MINUTE, "none"), span) == 0
        assert await storage.refresh(SERIES, TimeRange(0, START)) == 0
        assert await storage.refresh(SERIES, span) > 0
        assert await storage.refresh() > 0
    async with opened(database) as storage:
        for timeframe in TARGETS:
            found = await storage.aggregate(SERIES, timeframe, EVER, limit=10_000)
            assert found == by_definition(bars, timeframe, EVER, 10_000, False)
