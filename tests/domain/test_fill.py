from __future__ import annotations

from marketd.domain.bar import Bar
from marketd.domain.fill import Fill, fill
from marketd.domain.timeframe import Timeframe
from marketd.domain.timerange import TimeRange

MINUTE = Timeframe.parse("1m")
M = 60_000


def bar(minute: int) -> Bar:
    return (minute * M, 1.0, 2.0, 0.5, float(minute), 3.0)


def test_an_empty_bucket_between_bars_and_after_the_last_gets_a_row_that_says_so() -> None:
    rows, filled = fill([bar(1), bar(3)], MINUTE, TimeRange(0, 5 * M), how=Fill.PREV, skip=[])
    assert rows == [bar(1), (2 * M, 1.0, 1.0, 1.0, 1.0, 0.0), bar(3), (4 * M, 3.0, 3.0, 3.0, 3.0, 0.0)]
    assert filled == [2 * M, 4 * M]


def test_null_says_nothing() -> None:
    rows, filled = fill([bar(1)], MINUTE, TimeRange(0, 3 * M), how=Fill.NULL, skip=[])
    assert rows == [bar(1), (2 * M, None, None, None, None, None)]
    assert filled == [2 * M]


def test_nothing_is_made_before_the_first_bar() -> None:
    assert fill([], MINUTE, TimeRange(0, 3 * M), how=Fill.PREV, skip=[]) == ([], [])


def test_a_gap_stays_a_gap() -> None:
    rows, filled = fill(
        [bar(0), bar(5)], MINUTE, TimeRange(0, 6 * M), how=Fill.PREV, skip=[TimeRange(2 * M, 4 * M)]
    )
    assert filled == [M, 4 * M]
    assert [row[0] // M for row in rows] == [0, 1, 4, 5]


def test_a_bar_before_the_span_only_lends_its_close() -> None:
    rows, filled = fill([bar(0)], MINUTE, TimeRange(3 * M, 5 * M), how=Fill.PREV, skip=[])
    assert filled == [3 * M, 4 * M]
    assert rows[0] == bar(0)
