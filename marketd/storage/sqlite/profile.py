"""How SQLite comes by its answers, over the user's own data: the plan of every statement that the
modules here run, and what one run of those takes that reading waits for."""

from __future__ import annotations

import re
import sqlite3
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from marketd.domain.timeframe import Timeframe
from marketd.domain.timerange import MAX_MS, MIN_MS
from marketd.storage.records import QueryPlan
from marketd.storage.rollups import KEPT
from marketd.storage.sqlite import bars, coverage, jobs, names, probe, rolled, rollups, ticks
from marketd.storage.sqlite.upkeep import reading

_SQL = re.compile(r"\s*(SELECT|INSERT|UPDATE|DELETE) ")
_SCAN = re.compile(r"\bSCAN (?!CONSTANT)|TEMP B-TREE")
_PAGE = 1_000

# The statements themselves, not copies of them: what the modules call them, and their text.
STATEMENTS: Mapping[str, str] = {
    name: text
    for module in (bars, coverage, jobs, names, probe, rolled, rollups, ticks)
    for name, text in vars(module).items()
    if isinstance(text, str) and _SQL.match(text)
}
# These are to look at every row there is.
EVERY_ROW = frozenset({"_ALL_SERIES", "_EMPTY_PROBE", "_END_CLAIMS"})

_SERIES = "SELECT id, market, provider, symbol, timeframe, variant FROM series"
_INSTRUMENTS = "SELECT id, market, provider, symbol FROM instrument"
_ENDS = """
    SELECT (SELECT min({time}) FROM {table} WHERE {owner} = :id),
        (SELECT max({time}) FROM {table} WHERE {owner} = :id)
"""


class _Subject(NamedTuple):
    """A series or an instrument to ask for, and the middle of its stored times."""

    id: int
    names: tuple[str, ...]
    middle_ms: int


def profile(path: Path, stop: threading.Event) -> list[QueryPlan]:
    """Every statement: how it is run over the database at `path`, and how long one run takes."""
    with reading(path, stop) as connection:
        parameters = _parameters(connection)
        return [_plan(connection, name, text, parameters.get(name)) for name, text in STATEMENTS.items()]


def _plan(
    connection: sqlite3.Connection, name: str, text: str, parameters: tuple[Any, ...] | None
) -> QueryPlan:
    numbered = map(int, re.findall(r"\?(\d+)", text))
    any_value = (1,) * max(numbered, default=text.count("?"))
    rows = connection.execute(f"EXPLAIN QUERY PLAN {text}", parameters or any_value)
    steps = [row[3] for row in rows]
    took_ms = None
    if parameters is not None:
        started_s = time.perf_counter()
        connection.execute(text, parameters).fetchall()
        took_ms = (time.perf_counter() - started_s) * 1000
    scans = [] if name in EVERY_ROW else [step for step in steps if _SCAN.search(step)]
    return QueryPlan(_spoken(name), " ".join(text.split()), steps, scans, took_ms)


def _spoken(name: str) -> str:
    return name.strip("_").lower().replace("_", " ")


def _parameters(connection: sqlite3.Connection) -> dict[str, tuple[Any, ...]]:
    """What to ask each statement that only reads: of the series and the instrument with the most."""
    asked: dict[str, tuple[Any, ...]] = {
        "_ALL_SERIES": (),
        "_READ_JOBS": ("backfill",),
        "_READ_JOB": ("",),
    }
    series = _longest(connection, _SERIES, "block", "series", "start")
    if series is not None:
        number, middle_ms = series.id, series.middle_ms
        timeframe = Timeframe.parse(series.names[3])
        first_ms = middle_ms - middle_ms % bars.block_ms(timeframe)
        end_ms = middle_ms + _PAGE * timeframe.nominal_ms
        coarser = str(KEPT[0])
        asked |= {
            "_FIND_SERIES": series.names,
            "_READ_BLOCK": (number, first_ms),
            "_FIRST_BLOCKS": (number, first_ms, end_ms),
            "_LAST_BLOCKS": (number, first_ms, end_ms),
            "_FIRST_BLOCK": (number,),
            "_LAST_BLOCK": (number,),
            "_NUMBER": (number,),
            "_REVISED": (number, 0, _PAGE),
            "_READ_COVERAGE": (number, middle_ms, end_ms),
            "_READ_ROLLED": (number, coarser, middle_ms, MAX_MS),
            "_TOUCHED_ROLLED": (number, middle_ms, end_ms),
            "_TIMEFRAMES": (number,),
            "_FIRST_ROLLUP": (number, coarser, middle_ms, MAX_MS, _PAGE),
            "_LAST_ROLLUP": (number, coarser, MIN_MS, middle_ms, _PAGE),
        }
    instrument = _longest(connection, _INSTRUMENTS, "tick", "instrument", "t")
    if instrument is not None:
        number, middle_ms = instrument.id, instrument.middle_ms
        asked |= {
            "_FIND_INSTRUMENT": instrument.names,
            "_NEXT_INSTRUMENT": (0,),
            "_FIRST_TICKS": (number, middle_ms, MAX_MS, _PAGE),
            "_READ_TICK_COVERAGE": (number, middle_ms, MAX_MS),
            "_LAST_TICKS": (number, MIN_MS, middle_ms, _PAGE),
        }
    return asked


def _longest(
    connection: sqlite3.Connection, all_of: str, table: str, owner: str, time: str
) -> _Subject | None:
    """The one whose stored times reach furthest, found without reading what lies between."""
    found: list[tuple[int, _Subject]] = []
    for number, *called in connection.execute(all_of).fetchall():
        statement = _ENDS.format(table=table, owner=owner, time=time)
        ends = connection.execute(statement, {"id": number}).fetchone()
        if ends[0] is not None:
            subject = _Subject(number, tuple(called), (ends[0] + ends[1]) // 2)
            found.append((ends[1] - ends[0], subject))
    return max(found)[1] if found else None
