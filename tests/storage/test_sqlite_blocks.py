"""Bars in blocks: packed and unpacked without a loss, and laid over what is there as a dict would."""

from __future__ import annotations

import math
import sqlite3
import struct
from collections.abc import Iterator
from contextlib import closing

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted import INSTRUMENT, MINUTE, START, M, bar

from marketd.domain import packing
from marketd.domain.bar import Bar
from marketd.domain.instrument import Series
from marketd.domain.timerange import MAX_MS, MIN_MS, TimeRange
from marketd.storage.sqlite import bars
from marketd.storage.sqlite.names import SeriesIds
from marketd.storage.sqlite.schema import migrate

SERIES = Series(INSTRUMENT, MINUTE)
IN_BLOCK = bars.block_ms(MINUTE) // M

values = st.one_of(st.none(), st.floats(), st.integers(-(2**53), 2**53))
times = st.integers(MIN_MS, MAX_MS - 1)
rows = st.lists(st.tuples(times, values, values, values, values, values), max_size=20)


@pytest.fixture
def connection() -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        migrate(connection)
        yield connection


def number_of_blocks(connection: sqlite3.Connection) -> int:
    (count,) = connection.execute("SELECT count(*) FROM block").fetchone()
    return int(count)


@given(rows)
def test_what_is_packed_comes_back(packed: list[Bar]) -> None:
    found = packing.unpack(packing.pack(packed))
    as_floats = [(t, *(None if value is None else float(value) for value in row)) for t, *row in packed]
    # As text, since NaN differs from itself.
    assert repr(found) == repr(as_floats)


def test_none_and_nan_are_told_apart_beside_each_other() -> None:
    odd: Bar = (START, math.nan, None, math.inf, -math.inf, None)
    assert repr(packing.unpack(packing.pack([bar(0), odd]))) == repr([bar(0), odd])


def test_half_a_bar_is_never_taken_for_one() -> None:
    with pytest.raises(struct.error):
        packing.unpack(packing.pack([bar(0)])[:-1])


def test_a_long_pack_comes_back_piece_by_piece() -> None:
    long = [bar(minute) for minute in range(2_500)]
    assert packing.unpack(packing.pack(long)) == long


@given(st.sets(st.integers(0, 40)), st.integers(-2, 42), st.integers(-2, 42))
def test_a_cut_holds_what_opens_in_the_range(minutes: set[int], start: int, end: int) -> None:
    packed = packing.pack(map(bar, sorted(minutes)))
    span = TimeRange(START + start * M - 1, START + max(start, end) * M)
    found = packing.unpack(packing.cut(packed, span))
    assert found == [bar(minute) for minute in sorted(minutes) if start <= minute < end]


@given(st.lists(st.sets(st.integers(-300, 900), min_size=1, max_size=60), max_size=6), st.data())
def test_blocks_say_what_a_dict_would_say(pages: list[set[int]], data: st.DataObject) -> None:
    """Pages before, after, between and over each other, with bars that have changed since."""
    kept: dict[int, Bar] = {}
    ids = SeriesIds()
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        migrate(connection)
        for number, page in enumerate(pages):
            new = [bar(minute, close=float(minute % (2 + number))) for minute in sorted(page)]
            stored = bars.store(connection, ids, SERIES, new, [], START)
            assert stored.inserted == sum(one[0] not in kept for one in new)
            changed = [one for one in new if one[0] in kept and kept[one[0]] != one]
            assert [revision.bar for revision in stored.revised] == changed
            kept |= {one[0]: one for one in new}
        minutes = st.integers(-301, 901)
        start, end = sorted((data.draw(minutes), data.draw(minutes)))
        span = TimeRange(START + start * M, START + end * M)
        limit = data.draw(st.integers(1, 100))
        wanted = [kept[t_ms] for t_ms in sorted(kept) if span.start_ms <= t_ms < span.end_ms]
        for newest in (False, True):
            found = packing.unpack(bars.read(connection, ids, SERIES, span, limit, newest).packed)
            assert found == (wanted[-limit:] if newest else wanted[:limit])


def test_a_block_holds_a_stretch_of_time_however_many_bars_there_are(
    connection: sqlite3.Connection,
) -> None:
    ids = SeriesIds()
    bars.store(connection, ids, SERIES, [bar(0), bar(IN_BLOCK), bar(10 * IN_BLOCK)], [], START)
    assert number_of_blocks(connection) == 3
    bars.store(connection, ids, SERIES, [bar(minute) for minute in range(1, IN_BLOCK)], [], START)
    assert number_of_blocks(connection) in (3, 4)  # START may lie inside a block


def test_the_same_bars_again_write_nothing(connection: sqlite3.Connection) -> None:
    ids = SeriesIds()
    page = [bar(minute) for minute in range(600)]
    bars.store(connection, ids, SERIES, page, [], START)
    changes = connection.total_changes
    bars.store(connection, ids, SERIES, page, [], START)
    bars.store(connection, ids, SERIES, page[100:200], [], START)
    assert connection.total_changes == changes


@pytest.mark.parametrize("damaged", ["substr(bars, 1, 95)", "X''", "NULL"])
def test_the_database_refuses_half_a_bar(connection: sqlite3.Connection, damaged: str) -> None:
    bars.store(connection, SeriesIds(), SERIES, [bar(0), bar(1)], [], START)
    with pytest.raises(sqlite3.IntegrityError):
        connection.execute(f"UPDATE block SET bars = {damaged}")  # noqa: S608
