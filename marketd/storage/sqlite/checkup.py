"""Whether a database file is sound: SQLite's own checks, and what must hold between its tables."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path

from marketd.domain.coverage import Reason
from marketd.storage.base import Checkup
from marketd.storage.soundness import SERIES, TRADES, Content, Counts, doubts, schema_facts
from marketd.storage.sqlite.schema import MIGRATIONS
from marketd.storage.sqlite.upkeep import reading

# SQLite ends its own list after this many.
_MOST_FAULTS = 20
_BARS = """
    SELECT count(*), min(t), max(t), coalesce(sum((t - :origin) % :step <> 0), 0)
    FROM bar WHERE series = :series
"""
_COVERED = """
    SELECT count(*) FROM coverage JOIN bar
    ON bar.series = coverage.series AND t >= range_start AND t < range_end
    WHERE coverage.series = ? AND reason IN (?, ?)
"""
_OWNERS = {
    "bar": "series",
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
            if version == len(MIGRATIONS):
                facts += _content(connection, problems)
    except sqlite3.Error as error:
        problems.append(f"SQLite cannot read it: {error}.")
    return Checkup(facts, problems)


def _content(connection: sqlite3.Connection, problems: list[str]) -> Iterator[str]:
    """What is in the tables; adds what cannot be so to the problems."""
    content = Content(problems)
    for number, name, timeframe in connection.execute(SERIES).fetchall():
        called = f"{name}@{timeframe}"
        grid = content.grid(called, timeframe)
        if grid is not None:
            asked = {"series": number, "step": grid.step_ms, "origin": grid.origin_ms}
            bars, first_ms, last_ms, astray = connection.execute(_BARS, asked).fetchone()
            (denied,) = connection.execute(
                _COVERED, (number, Reason.NO_TRADES, Reason.CLOSED)
            ).fetchone()
            (proven,) = connection.execute(_COVERED, (number, Reason.DATA, Reason.DATA)).fetchone()
            content.count(called, grid, Counts(bars, first_ms, last_ms, astray, denied, proven))
    for statement, told in doubts(_OWNERS):
        (count,) = connection.execute(statement).fetchone()
        if count:
            problems.append(told.format(count))
    (trades,) = connection.execute(TRADES).fetchone()
    return content.facts(trades)
