"""What is said to SQLite: every statement goes straight to its rows, and NaN survives."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import re
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest
from scripted import INSTRUMENT, MINUTE, START, M, bar

from marketd.domain.coverage import Covered, Reason
from marketd.domain.instrument import Series
from marketd.domain.timerange import TimeRange
from marketd.storage import sqlite
from marketd.storage.sqlite import (
    bars,
    coverage,
    jobs,
    names,
    probe,
    rolled,
    rollups,
    store,
    ticks,
    writer,
)
from marketd.storage.sqlite.names import SeriesIds
from marketd.storage.sqlite.profile import EVERY_ROW, STATEMENTS
from marketd.storage.sqlite.schema import migrate

SERIES = Series(INSTRUMENT, MINUTE)
SQL = re.compile(r"\s*(SELECT|INSERT|UPDATE|DELETE) ")
MODULES = (bars, coverage, jobs, names, probe, rolled, rollups, ticks)


@pytest.fixture
def connection() -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(":memory:", isolation_level=None)) as connection:
        migrate(connection)
        yield connection


def minutes(start: int, end: int) -> TimeRange:
    return TimeRange(START + start * M, START + end * M)


def data(start: int, end: int) -> Covered:
    return Covered(*minutes(start, end), Reason.DATA)


@pytest.mark.parametrize("name", sorted(STATEMENTS.keys() - EVERY_ROW))
def test_no_statement_looks_at_rows_that_it_does_not_need(
    connection: sqlite3.Connection, name: str
) -> None:
    text = STATEMENTS[name]
    numbered = map(int, re.findall(r"\?(\d+)", text))
    parameters = [1] * max(numbered, default=text.count("?"))
    plan = [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {text}", parameters)]
    assert not [step for step in plan if re.search(r"\bSCAN (?!CONSTANT)|TEMP B-TREE", step)]
    assert all(
        "USING PRIMARY KEY" in step
        for step in plan
        if "revision_by_number" not in step
        and re.search(r"SEARCH (block|revision|coverage|tick|rollup|rolled)", step)
    )


def test_every_statement_is_one_of_those_checked() -> None:
    # A check and a profile look over everything, by the command of whoever wants that.
    apart = {"checkup", "profile"}
    for found in pkgutil.iter_modules(sqlite.__path__):
        module = importlib.import_module(f"{sqlite.__name__}.{found.name}")
        for name, text in vars(module).items() if found.name not in apart else ():
            assert not (isinstance(text, str) and SQL.match(text)) or STATEMENTS[name] == text
    trees = [ast.parse(inspect.getsource(module)) for module in (*MODULES, store, writer)]
    functions = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    inside = [
        node for function in functions for node in ast.walk(function) if isinstance(node, ast.Constant)
    ]
    assert inside
    assert not [node.value for node in inside if isinstance(node.value, str) and SQL.match(node.value)]


def steps(connection: sqlite3.Connection, work: Callable[[], object]) -> int:
    """How many instructions SQLite's machine takes for `work`."""
    taken = 0

    def count() -> int:
        nonlocal taken
        taken += 1
        return 0

    connection.set_progress_handler(count, 1)
    work()
    connection.set_progress_handler(None, 1)
    return taken


def test_neither_reading_nor_storing_costs_more_where_much_is_stored(
    connection: sqlite3.Connection,
) -> None:
    ids = SeriesIds()
    costs = []
    for stored in (10, 3_000):
        series = Series(INSTRUMENT, MINUTE, f"{stored}")
        stored_bars = [bar(2 * minute) for minute in range(stored)]
        pieces = [data(2 * minute, 2 * minute + 1) for minute in range(stored)]
        bars.store(connection, ids, series, stored_bars, pieces, START)
        middle = stored - stored % 2
        span = minutes(middle, middle + 4)

        def read(series: Series = series, span: TimeRange = span) -> None:
            assert len(bars.read(connection, ids, series, span, 2, True).coverage) == 2

        def store(series: Series = series, middle: int = middle) -> None:
            between = data(middle + 1, middle + 2)
            assert bars.store(connection, ids, series, [bar(middle + 1)], [between], START).inserted == 1

        costs.append((steps(connection, read), steps(connection, store)))
    few, many = costs
    assert many == pytest.approx(few, rel=0.2)


def test_a_revision_keeps_when_it_was(connection: sqlite3.Connection) -> None:
    ids = SeriesIds()
    for at_ms, close in ((START, 1.0), (START + 1, 1.0), (START + 2, 2.0)):
        bars.store(connection, ids, SERIES, [bar(0, close)], [], at_ms)
    assert connection.execute("SELECT t, rev, revised_at FROM revision").fetchall() == [
        (START, 1, START + 2)
    ]


def test_what_is_proven_already_is_not_written_again(connection: sqlite3.Connection) -> None:
    ids = SeriesIds()
    page = [bar(minute) for minute in range(10)]
    bars.store(connection, ids, SERIES, page, [data(0, 10)], START)
    changes = connection.total_changes
    bars.store(connection, ids, SERIES, page, [data(0, 10), data(3, 5)], START)
    assert connection.total_changes == changes
