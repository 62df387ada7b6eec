"""How PostgreSQL comes by its answers, over the user's own data: what EXPLAIN says of every statement
that the modules here run, and what one run of those takes that reading waits for."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from types import ModuleType
from typing import Any, NamedTuple

import asyncpg

from marketd.domain.timeframe import Timeframe
from marketd.domain.timerange import MAX_MS, MIN_MS
from marketd.storage.postgres import (
    aggregates,
    bars,
    coverage,
    freshness,
    jobs,
    names,
    notes,
    ticks,
    timescale,
)
from marketd.storage.postgres.connection import Connection, Connections, reason
from marketd.storage.records import QueryPlan

_SQL = re.compile(r"\s*(SELECT|INSERT|UPDATE|DELETE|WITH)\s")
_PAGE = 1_000
# A table of so many bytes is sooner read whole than looked up in.
_SMALL = 1 << 20
# A sort of so many rows is one of a statement's own page.
_FEW_ROWS = 5_000

_SERIES = """
    SELECT id, timeframe, (first.t + last.t) / 2 AS middle FROM series,
        LATERAL (SELECT t FROM bar WHERE series = series.id ORDER BY t LIMIT 1) AS first,
        LATERAL (SELECT t FROM bar WHERE series = series.id ORDER BY t DESC LIMIT 1) AS last
    ORDER BY last.t - first.t DESC LIMIT 1
"""
_INSTRUMENT = """
    SELECT id, (first.t + last.t) / 2 AS middle FROM instrument,
        LATERAL (SELECT t FROM tick WHERE instrument = instrument.id ORDER BY t LIMIT 1) AS first,
        LATERAL (SELECT t FROM tick WHERE instrument = instrument.id ORDER BY t DESC LIMIT 1) AS last
    ORDER BY last.t - first.t DESC LIMIT 1
"""
_DIGEST = "SELECT digest FROM {} WHERE id = $1"
_SIZE = "SELECT pg_relation_size(to_regclass(format('%I.%I', $1::text, $2::text)))"


def _statements(module: ModuleType) -> Iterator[tuple[str, str]]:
    """The statements themselves, not copies of them: what a module calls them, and their text."""
    room = module.__name__.rpartition(".")[2]
    for name, value in vars(module).items():
        called = f"{room} {name.strip('_').lower().replace('_', ' ')}"
        if isinstance(value, str):
            parts = {"": value}
        elif isinstance(value, coverage.Table):
            parts = value._asdict()
        else:
            parts = value if isinstance(value, dict) else {}
        for part, text in parts.items():
            if isinstance(text, str) and _SQL.match(text):
                yield f"{called} {part}".rstrip(), text


# Each once, by the last of its names.
_NAMES = {
    text: name
    for module in (bars, coverage, aggregates, freshness, names, ticks, jobs, notes)
    for name, text in _statements(module)
}
STATEMENTS: Mapping[str, str] = {name: text for text, name in _NAMES.items()}
# Of the views there are the three that read them.
VIEW_STATEMENTS: Mapping[str, str] = {
    name: text for name, text in _statements(timescale) if " bar_1" in name
}
# These are to look at every row there is.
EVERY_ROW = frozenset({"names all series", "names all instruments"})


class _Step(NamedTuple):
    """One node of a plan, as EXPLAIN describes it."""

    node: Mapping[str, Any]

    @property
    def rows(self) -> float:
        rows: float = self.node.get("Actual Rows", self.node["Plan Rows"])
        loops: int = self.node.get("Actual Loops", 1)
        return rows * loops

    def __str__(self) -> str:
        node = self.node
        text = str(node["Node Type"])
        if "Index Name" in node:
            text += f" using {node['Index Name']}"
        if "Relation Name" in node:
            text += f" on {node['Relation Name']}"
        if "Actual Rows" in node:
            pages = node.get("Shared Hit Blocks", 0) + node.get("Shared Read Blocks", 0)
            text += f" ({self.rows:,.0f} rows, {pages:,} pages)"
        return text


async def profile(connections: Connections, *, views: bool, small: int = _SMALL) -> list[QueryPlan]:
    """Every statement: how it is run over what is stored, and how long one run takes.

    What would write, lock or notify is explained and not run. Looking through a table of up to `small`
    bytes is no scan.
    """
    statements = {**STATEMENTS, **(VIEW_STATEMENTS if views else {})}
    async with connections.one() as connection, connection.transaction(readonly=True):
        parameters = await _parameters(connection)
        return [
            await _plan(connection, name, text, parameters.get(name), small)
            for name, text in statements.items()
        ]


async def _plan(
    connection: Connection, name: str, text: str, parameters: Sequence[Any] | None, small: int
) -> QueryPlan:
    statement = " ".join(text.split())
    options = "VERBOSE, FORMAT JSON"
    try:
        async with connection.transaction():
            if parameters is None:
                prepared = await connection.prepare(text)
                parameters = [_any_value(one.name) for one in prepared.get_parameters()]
            else:
                options += ", ANALYZE, BUFFERS"
            explain = f"EXPLAIN ({options}) {text}"
            explained = await connection.fetchval(explain, *parameters, timeout=None)
    except asyncpg.PostgresError as error:
        told = [f"cannot be run: {reason(error)}"]
        return QueryPlan(name, statement, told, told, None)
    (plan,) = json.loads(explained)
    steps = list(_steps(plan["Plan"]))
    scans = (
        [] if name in EVERY_ROW else [step for step in steps if await _scans(connection, step, small)]
    )
    return QueryPlan(
        name,
        statement,
        [str(step) for step in steps],
        [str(step) for step in scans],
        plan.get("Execution Time"),
    )


def _steps(node: Mapping[str, Any]) -> Iterator[_Step]:
    yield _Step(node)
    for inner in node.get("Plans", ()):
        yield from _steps(inner)


async def _scans(connection: Connection, step: _Step, small: int) -> bool:
    """True of a step that looks through a whole table, or sorts more than a page."""
    match step.node["Node Type"]:
        case "Seq Scan":
            where = (step.node["Schema"], step.node["Relation Name"])
            return bool(await connection.fetchval(_SIZE, *where) > small)
        case "Sort":
            return step.rows > _FEW_ROWS
    return False


def _any_value(kind: str) -> Any:
    """Something to put in the place of a parameter."""
    if kind.endswith("[]"):
        return [_any_value(kind[:-2])]
    return {"text": "1h", "bytea": b"", "float8": 1.0}.get(kind, 1)


async def _parameters(connection: Connection) -> dict[str, Sequence[Any]]:
    """What to ask each statement that only reads: of the series and the instrument with the most."""
    asked: dict[str, Sequence[Any]] = {
        "names all series": (),
        "names all instruments": (),
        "jobs of kind": ("backfill",),
        "jobs one": ("",),
    }
    series = await connection.fetchrow(_SERIES, timeout=None)
    if series is not None:
        number, timeframe, middle_ms = series
        end_ms = middle_ms + _PAGE * Timeframe.parse(timeframe).nominal_ms
        onwards, back = (number, middle_ms, MAX_MS, _PAGE), (number, MIN_MS, middle_ms, _PAGE)
        asked |= {
            "bars first bars": onwards,
            "bars last bars": back,
            "bars first bars and coverage": onwards,
            "bars last bars and coverage": back,
            "bars number": (number,),
            "bars revised": (number, 0, _PAGE),
            "coverage bars read": (number, middle_ms, end_ms),
            "coverage bars touched": (number, [middle_ms], [end_ms]),
            "aggregates extent": (number,),
            "aggregates first": (number, "1h", *onwards[1:]),
            "aggregates last": (number, "1h", *back[1:]),
            "freshness overlapping": (number, middle_ms, end_ms),
            "freshness fresh": (number, "1h", middle_ms, MAX_MS),
            "freshness kept": (number,),
            "names find series": (await connection.fetchval(_DIGEST.format("series"), number),),
            "names one series": (number,),
        }
        for view in ("bar_1h", "bar_1d"):
            asked |= {
                f"timescale first {view}": onwards,
                f"timescale last {view}": back,
                f"timescale count {view}": (number, middle_ms, end_ms),
            }
    instrument = await connection.fetchrow(_INSTRUMENT, timeout=None)
    if instrument is not None:
        number, middle_ms = instrument
        asked |= {
            "names find instrument": (await connection.fetchval(_DIGEST.format("instrument"), number),),
            "ticks first": (number, middle_ms, MAX_MS, _PAGE),
            "ticks last": (number, MIN_MS, middle_ms, _PAGE),
            "ticks after": (number, 0, MAX_MS, _PAGE),
            "ticks last place": (number,),
            "coverage ticks read": (number, middle_ms, MAX_MS),
            "coverage ticks touched": (number, [middle_ms], [MAX_MS]),
        }
    return asked
