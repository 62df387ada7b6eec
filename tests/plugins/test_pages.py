"""What a page proves: a plugin's word is taken where it can be, and tested where it may be wrong."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted import MINUTE, START, M, bar

from marketd.domain.bar import Bar, select
from marketd.domain.errors import ProviderFailed
from marketd.domain.timerange import TimeRange
from marketd.metrics import Metrics
from marketd.plugins.pages import Fetched, PageReader, Question

LIMIT = 100
NOW = START + 10_000 * M


def span(first: int, end: int) -> TimeRange:
    """Minutes after START."""
    return TimeRange(START + first * M, START + end * M)


async def read(
    reader: PageReader, rows: object, asked: TimeRange, *, now_ms: int = NOW, limit: int = LIMIT
) -> Fetched:
    settled_ms = MINUTE.floor(now_ms)
    return await reader.read(rows, Question("BTC/USD", MINUTE, asked, limit, now_ms, settled_ms))


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
def reader(metrics: Metrics) -> PageReader:
    return PageReader("test", metrics)


def cut_short(metrics: Metrics) -> float:
    value = metrics.registry.get_sample_value("marketd_pages_cut_short_total", {"provider": "test"})
    return value or 0.0


async def whole(
    reader: PageReader, bars: list[Bar], asked: TimeRange, *, cut: int
) -> tuple[list[Bar], int]:
    """All bars of a range, as a reader asks on for them, and in how many pages.

    The provider gives `cut` bars at the most, whatever the plugin's limit.
    """
    found: list[Bar] = []
    cursor, pages = asked.start_ms, 0
    while cursor < asked.end_ms:
        rows = select(bars, since=cursor, before=asked.end_ms, limit=min(cut, LIMIT))
        page = await read(reader, rows, TimeRange(cursor, asked.end_ms))
        assert page.end_ms > cursor
        found += page.bars
        cursor, pages = page.end_ms, pages + 1
    return found, pages


@settings(max_examples=100)
@given(
    st.sets(st.integers(0, 400), min_size=60),
    st.integers(1, 120),
    st.lists(st.tuples(st.integers(0, 400), st.integers(0, 400)), min_size=1, max_size=6),
)
async def test_a_limit_unheard_of_loses_nothing(
    minutes: set[int], cut: int, asked: list[tuple[int, int]]
) -> None:
    metrics = Metrics()
    reader = PageReader("test", metrics)
    bars = [bar(minute) for minute in sorted(minutes)]
    whole_range = span(0, 1_000)
    found, pages = await whole(reader, bars, whole_range, cut=cut)
    assert found == bars
    assert pages <= len(bars) // min(cut, LIMIT) + 2
    for first, end in asked:
        found, _ = await whole(reader, bars, span(*sorted((first, end))), cut=cut)
        assert found == select(
            bars, since=START + min(first, end) * M, before=START + max(first, end) * M
        )
    assert cut_short(metrics) == (1 if cut < min(LIMIT, len(bars)) else 0)


async def test_a_market_that_closes_every_day_is_believed_after_a_few_questions(
    reader: PageReader, metrics: Metrics
) -> None:
    sessions = [bar(day * 1_440 + minute) for day in range(20) for minute in range(60)]
    pages = [
        (await whole(reader, sessions, span(d * 1_440, d * 1_440 + 1_440), cut=99))[1] for d in range(6)
    ]
    assert pages == [2, 2, 2, 1, 1, 1]
    assert cut_short(metrics) == 0


async def test_a_bar_that_came_into_being_meanwhile_is_no_sign_of_a_cut(
    reader: PageReader, metrics: Metrics
) -> None:
    asked = span(0, 20)
    page = await read(reader, [bar(0)], asked, now_ms=START + 5 * M)
    assert page.end_ms == START + M
    rest = TimeRange(page.end_ms, asked.end_ms)
    page = await read(reader, [bar(6)], rest, now_ms=START + 7 * M)
    assert page.bars == [bar(6)]
    assert cut_short(metrics) == 0


async def test_a_page_that_ends_where_the_range_does_is_all(reader: PageReader) -> None:
    page = await read(reader, [bar(minute) for minute in range(20)], span(0, 20))
    assert page[:3] == ([bar(minute) for minute in range(20)], START + 20 * M, [])


async def test_of_two_rows_for_one_interval_that_differ_neither_is_taken(reader: PageReader) -> None:
    rows = [bar(0), bar(1), bar(1, close=9.0), bar(1), bar(2), bar(2)]
    page = await read(reader, rows, span(0, 3))
    assert page[:3] == ([bar(0), bar(2)], START + 3 * M, [span(1, 2)])


async def test_an_answer_to_another_question_proves_what_lies_between_its_rows_alone(
    reader: PageReader,
) -> None:
    newest = [bar(minute) for minute in range(50, 90)]
    page = await read(reader, newest, span(0, 60))
    assert page[:3] == ([bar(minute) for minute in range(50, 60)], START + 60 * M, [span(0, 50)])
    page = await read(reader, newest, span(0, 40))
    assert page[:3] == ([], START + 40 * M, [span(0, 40)])


async def test_a_row_at_the_very_edge_comes_with_many_providers(reader: PageReader) -> None:
    page = await read(reader, [bar(9), bar(10), bar(20)], span(10, 20))
    assert page.bars == [bar(10)]
    assert page.refused == []


async def test_a_full_page_without_one_bar_asked_for_is_an_error(reader: PageReader) -> None:
    with pytest.raises(ProviderFailed, match="without one bar"):
        await read(reader, [bar(minute) for minute in range(100)], span(200, 300))
