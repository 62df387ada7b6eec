"""Whether a database file is sound: SQLite's own checks, and what must hold between its tables."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from marketd.domain import packing
from marketd.domain.coverage import Reason
from marketd.domain.timeframe import Timeframe
from marketd.domain.timerange import MAX_MS, MIN_MS
from marketd.storage.records import Checkup
from marketd.storage.soundness import SERIES, TRADES, Content, Counts, doubts, schema_facts
from marketd.storage.sqlite.bars import block_ms
from marketd.storage.sqlite.schema import MIGRATIONS
from marketd.storage.sqlite.upkeep import reading

# SQLite ends its own list after this many.
_MOST_FAULTS = 20
_BLOCKS = "SELECT start, bars FROM block WHERE series = ? ORDER BY start"
_COVERAGE = "SELECT range_start, range_end, reason FROM coverage WHERE series = ? ORDER BY range_start"
_OWNERS = {
    "block": "series",
    "revision": "series",
    "coverage": "series",
    "rollup": "series",
    "rolled": "series",
    "tick": "instrument",
    "tick_coverage": "instrument",
}


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
            facts += schema_facts(version, len(MIGRATIONS), problems)
            # What a damaged file seems to hold says nothing.
            if version == len(MIGRATIONS) and not problems:
                facts += _content(connection, problems)
    except sqlite3.Error as error:
        problems.append(f"SQLite cannot read it: {error}.")
    return Checkup(facts, problems)


def _content(connection: sqlite3.Connection, problems: list[str]) -> Iterator[str]:
    """What is in the tables; adds what cannot be so to the problems."""
    content = Content(problems)
    for number, name, written in connection.execute(SERIES).fetchall():
        called = f"{name}@{written}"
        timeframe = content.timeframe(called, written)
        if timeframe is not None:
            content.count(called, timeframe, _of_series(connection, number, called, timeframe, problems))
    for statement, told in doubts(_OWNERS):
        (count,) = connection.execute(statement).fetchone()
        if count:
            problems.append(told.format(count))
    (trades,) = connection.execute(TRADES).fetchone()
    return content.facts(trades)


def _of_series(
    connection: sqlite3.Connection, number: int, name: str, timeframe: Timeframe, problems: list[str]
) -> Counts:
    known = _Known(connection.execute(_COVERAGE, (number,)).fetchall())
    count = proven = denied = astray = 0
    crooked = out_of_time = False
    for start_ms, block in connection.execute(_BLOCKS, (number,)):
        t_ms = packing.times(block)
        steps_ms = np.diff(t_ms, prepend=start_ms - 1, append=start_ms + block_ms(timeframe))
        crooked |= bool((steps_ms <= 0).any())
        count += len(t_ms)
        in_time = (t_ms >= MIN_MS) & (t_ms < MAX_MS)
        out_of_time |= not bool(in_time.all())
        t_ms = t_ms[in_time]
        astray += int((timeframe.floor_array(t_ms) != t_ms).sum())
        answered, empty = known.of(t_ms)
        proven += answered
        denied += empty
    if crooked:
        problems.append(f"{name} has bars that are not where they belong.")
    return Counts(count, out_of_time, astray, denied, proven)


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
