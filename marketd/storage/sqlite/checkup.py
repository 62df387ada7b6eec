"""Whether a database file is sound: SQLite's own checks, and what must hold between its tables."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from marketd.domain.coverage import Reason
from marketd.domain.errors import InvalidInput
from marketd.domain.timeframe import Timeframe
from marketd.domain.timerange import MAX_MS, MIN_MS
from marketd.storage.base import Checkup
from marketd.storage.sqlite import packing
from marketd.storage.sqlite.bars import block_ms
from marketd.storage.sqlite.schema import MIGRATIONS
from marketd.storage.sqlite.upkeep import reading

# SQLite ends its own list after this many.
_MOST_FAULTS = 20
_SERIES = "SELECT id, market || '/' || provider || '/' || symbol, timeframe FROM series ORDER BY id"
_BLOCKS = "SELECT start, bars FROM block WHERE series = ? ORDER BY start"
_COVERAGE = "SELECT range_start, range_end, reason FROM coverage WHERE series = ? ORDER BY range_start"
_CROOKED = """
    SELECT count(*) FROM (
        SELECT range_start, range_end,
            lag(range_end) OVER (PARTITION BY {owner} ORDER BY range_start) AS reached FROM {table})
    WHERE range_end <= range_start OR range_start < reached OR range_start < ? OR range_end > ?
"""
# Whose rows a table has, each owner found by one step into its key.
_STRAY = """
    WITH RECURSIVE known (id) AS (
        SELECT min({owner}) FROM {table}
        UNION ALL
        SELECT (SELECT min({owner}) FROM {table} WHERE {owner} > id) FROM known WHERE id NOT NULL)
    SELECT count(*) FROM known WHERE id NOT NULL AND id NOT IN (SELECT id FROM {owner})
"""
_OWNERS = {
    "block": "series",
    "revision": "series",
    "coverage": "series",
    "rollup": "series",
    "rolled": "series",
    "tick": "instrument",
    "tick_coverage": "instrument",
}
_COVERAGES = {"coverage": "coverage", "tick_coverage": "coverage of trades"}


def check(path: Path, stop: threading.Event, *, still: bool = False) -> Checkup:
    """What is wrong with the database at `path`, in sentences; see `upkeep.reading`."""
    facts: list[str] = []
    problems: list[str] = []
    try:
        with reading(path, stop, still=still) as connection:
            faults = [row[0] for row in connection.execute(f"PRAGMA integrity_check({_MOST_FAULTS})")]
            if faults != ["ok"]:
                problems += [f"SQLite finds the file damaged: {fault}." for fault in faults]
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            facts.append(f"schema {version} of {len(MIGRATIONS)}")
            if problems:
                pass  # what a damaged file seems to hold says nothing
            elif version == len(MIGRATIONS):
                counts = _content(connection, problems)
                facts += [
                    f"{counts.series:,} series",
                    f"{counts.bars:,} bars",
                    f"{counts.trades:,} trades",
                ]
                if counts.unproven:
                    facts.append(f"{counts.unproven:,} bars in ranges that are asked for again")
            elif version > len(MIGRATIONS):
                problems.append("It was made by a newer marketd: upgrade this one.")
            elif version == 0:
                problems.append("It holds nothing of marketd's.")
            else:
                facts.append("brought up to date by the next start")
    except sqlite3.Error as error:
        problems.append(f"SQLite cannot read it: {error}.")
    return Checkup(facts, problems)


class _Counts(NamedTuple):
    series: int
    bars: int
    unproven: int
    trades: int


def _content(connection: sqlite3.Connection, problems: list[str]) -> _Counts:
    """What is in the tables; adds what cannot be so to the problems."""
    bars = unproven = 0
    series = connection.execute(_SERIES).fetchall()
    for number, name, timeframe in series:
        count, proven = _of_series(connection, number, f"{name}@{timeframe}", timeframe, problems)
        bars += count
        unproven += count - proven
    for table, owner in _OWNERS.items():
        (strays,) = connection.execute(_STRAY.format(table=table, owner=owner)).fetchone()
        if strays:
            problems.append(f"The table {table} has rows of {strays} {owner} that nothing names.")
    for table, told in _COVERAGES.items():
        statement = _CROOKED.format(table=table, owner=_OWNERS[table])
        (crooked,) = connection.execute(statement, (MIN_MS, MAX_MS)).fetchone()
        if crooked:
            problems.append(f"{crooked} ranges of the {told} are empty, overlap or lie outside of time.")
    (trades,) = connection.execute("SELECT count(*) FROM tick").fetchone()
    return _Counts(len(series), bars, unproven, trades)


def _of_series(
    connection: sqlite3.Connection, number: int, name: str, written: str, problems: list[str]
) -> tuple[int, int]:
    """How many bars a series has, and how many of them where everything is known."""
    try:
        timeframe = Timeframe.parse(written)
    except InvalidInput:
        problems.append(f"{name} has no timeframe that is one.")
        return 0, 0
    known = _Known(connection.execute(_COVERAGE, (number,)).fetchall())
    count = proven = denied = astray = 0
    crooked = out_of_time = False
    for start_ms, block in connection.execute(_BLOCKS, (number,)):
        t_ms = packing.times(block)
        steps_ms = np.diff(t_ms, prepend=start_ms - 1, append=start_ms + block_ms(timeframe))
        crooked |= bool((steps_ms <= 0).any())
        count += len(t_ms)
        in_time = (t_ms >= MIN_MS) & (t_ms < MAX_MS)
        out_of_time |= not in_time.all()
        t_ms = t_ms[in_time]
        astray += int((timeframe.floor_array(t_ms) != t_ms).sum())
        answered, empty = known.of(t_ms)
        proven += answered
        denied += empty
    if crooked:
        problems.append(f"{name} has bars that are not where they belong.")
    if astray:
        problems.append(f"{name} has {astray} bars off the grid of {timeframe}.")
    if out_of_time:
        problems.append(f"{name} has bars outside the years 1970 to 2099.")
    if denied:
        problems.append(f"{name} has {denied} bars where its coverage says that there are none.")
    return count, proven + denied


class _Known:
    """The coverage of a series, for many times at once."""

    def __init__(self, rows: Sequence[tuple[int, int, str]]) -> None:
        self._start_ms = np.array([row[0] for row in rows], dtype=np.int64)
        self._end_ms = np.array([row[1] for row in rows], dtype=np.int64)
        self._answered = np.array([row[2] == Reason.DATA for row in rows], dtype=bool)
        self._empty = np.array([row[2] in (Reason.NO_TRADES, Reason.CLOSED) for row in rows], dtype=bool)

    def of(self, t_ms: npt.NDArray[np.int64]) -> tuple[int, int]:
        """How many of the times lie where there was an answer, and how many where there is no bar."""
        place = np.searchsorted(self._start_ms, t_ms, side="right") - 1
        t_ms, place = t_ms[place >= 0], place[place >= 0]
        place = place[t_ms < self._end_ms[place]]
        return int(self._answered[place].sum()), int(self._empty[place].sum())
