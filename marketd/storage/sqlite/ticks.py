"""Trades and what is known of their times: functions over one connection, each run whole."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Sequence

from marketd.domain.bar import Tick
from marketd.domain.coverage import Covered
from marketd.domain.instrument import Instrument
from marketd.domain.timerange import TimeRange
from marketd.storage.records import AddedTicks, StoredTicks, reach_of_ticks
from marketd.storage.sqlite import coverage
from marketd.storage.sqlite.names import ensure_instrument, find_instrument

_READ_TICKS = "SELECT t, price, size, side, id FROM tick WHERE instrument = ? AND t >= ? AND t < ?"
_ALL_TICKS = f"{_READ_TICKS} ORDER BY t, place"
_FIRST_TICKS = f"{_ALL_TICKS} LIMIT ?"
_LAST_TICKS = f"{_READ_TICKS} ORDER BY t DESC, place DESC LIMIT ?"
_INSERT_TICKS = """
    INSERT INTO tick (instrument, t, place, price, size, side, id) VALUES (?, ?, ?, ?, ?, ?, ?)
"""
_NEXT_INSTRUMENT = "SELECT id FROM instrument WHERE id > ? ORDER BY id LIMIT 1"
_STEP_END = "SELECT t, place FROM tick WHERE instrument = ? AND t < ? ORDER BY t, place LIMIT 1 OFFSET ?"
_DELETE_TO = "DELETE FROM tick WHERE instrument = ? AND t < ? AND (t, place) < (?, ?)"
_DELETE_ALL = "DELETE FROM tick WHERE instrument = ? AND t < ?"
_FORGET_TICKS = "DELETE FROM tick_coverage WHERE instrument = ? AND range_start < ? AND range_end <= ?"
_CUT_TICK_COVERAGE = """
    UPDATE tick_coverage SET range_start = ? WHERE instrument = ? AND range_start < ?
"""


def store(
    connection: sqlite3.Connection,
    instrument: Instrument,
    ticks: Sequence[Tick],
    covered: Sequence[Covered],
) -> AddedTicks:
    """See Storage.store_ticks; runs inside a transaction of the caller's."""
    if not (ticks or covered):
        return AddedTicks([])
    number = ensure_instrument(connection, instrument)
    coverage.lay_over(connection, number, covered, table=coverage.TICKS)
    return AddedTicks(_add(connection, number, ticks) if ticks else [])


def _add(connection: sqlite3.Connection, number: int, ticks: Sequence[Tick]) -> list[Tick]:
    present = connection.execute(_ALL_TICKS, (number, ticks[0][0], ticks[-1][0] + 1)).fetchall()
    # How many trades there are that cannot be told apart, and how many in a millisecond.
    stored = Counter(map(_identity, present))
    places = Counter(tick[0] for tick in present)
    in_call: Counter[Tick | tuple[int, str]] = Counter()
    new = []
    rows = []
    for tick in ticks:
        t_ms, price, size, side, trade_id = tick
        same = _identity(tick)
        in_call[same] += 1
        if in_call[same] <= stored[same] or (trade_id and in_call[same] > 1):
            continue
        rows.append((number, t_ms, places[t_ms], price, size, side, trade_id))
        places[t_ms] += 1
        new.append(tick)
    connection.executemany(_INSERT_TICKS, rows)
    return new


def read(
    connection: sqlite3.Connection, instrument: Instrument, span: TimeRange, limit: int, newest: bool
) -> StoredTicks:
    """See Storage.read_ticks."""
    number = find_instrument(connection, instrument)
    if number is None or span.is_empty:
        return StoredTicks([], [])
    statement = _LAST_TICKS if newest else _FIRST_TICKS
    ticks: list[Tick] = connection.execute(statement, (number, *span, limit)).fetchall()
    if newest:
        ticks.reverse()
    spoken = reach_of_ticks(ticks, span, limit=limit, newest=newest)
    known = coverage.read(connection, number, spoken, table=coverage.TICKS)
    return StoredTicks(ticks, [piece.clip(spoken) for piece in known])


def next_instrument(connection: sqlite3.Connection, after: int) -> int | None:
    """The next row number of an instrument after `after`, which begins with 0."""
    row = connection.execute(_NEXT_INSTRUMENT, (after,)).fetchone()
    return None if row is None else int(row[0])


def drop(connection: sqlite3.Connection, number: int, before_ms: int, most: int) -> int:
    """Deletes up to `most` of an instrument's trades before a time, the oldest first."""
    connection.execute(_FORGET_TICKS, (number, before_ms, before_ms))
    connection.execute(_CUT_TICK_COVERAGE, (before_ms, number, before_ms))
    end = connection.execute(_STEP_END, (number, before_ms, most)).fetchone()
    if end is None:
        return connection.execute(_DELETE_ALL, (number, before_ms)).rowcount
    return connection.execute(_DELETE_TO, (number, before_ms, *end)).rowcount


def _identity(tick: Tick) -> Tick | tuple[int, str]:
    """What two equal trades have in common: the id in its millisecond, or else everything."""
    return (tick[0], tick[4]) if tick[4] else tick
