"""What must hold between the tables of a store, whichever database has them: what to ask, and what to
say of the answers. The statements are those that SQLite and PostgreSQL understand alike."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from marketd.domain.errors import InvalidInput
from marketd.domain.timeframe import Timeframe
from marketd.domain.timerange import MAX_MS, MIN_MS

SERIES = "SELECT id, market || '/' || provider || '/' || symbol, timeframe FROM series ORDER BY id"
TRADES = "SELECT count(*) FROM tick"
_CROOKED = """
    SELECT count(*) FROM (
        SELECT range_start, range_end,
            lag(range_end) OVER (PARTITION BY {owner} ORDER BY range_start) AS reached
        FROM {table}) AS ranges
    WHERE range_end <= range_start OR range_start < reached
        OR range_start < {least} OR range_end > {most}
"""
# Whose rows a table has, each owner found by one step into its key.
_STRAY = """
    WITH RECURSIVE known (id) AS (
        SELECT min({owner}) FROM {table}
        UNION ALL
        SELECT (SELECT min({owner}) FROM {table} WHERE {owner} > known.id) FROM known
        WHERE known.id IS NOT NULL)
    SELECT count(*) FROM known WHERE id IS NOT NULL AND id NOT IN (SELECT id FROM {owner})
"""
_COVERAGES = {"coverage": ("series", "coverage"), "tick_coverage": ("instrument", "coverage of trades")}


class Counts(NamedTuple):
    """Of the bars of a series: how many, whether any is outside of time, how many are off the grid, how
    many where the coverage says that there are none, and how many where it says that all are there."""

    bars: int
    out_of_time: bool
    astray: int
    denied: int
    proven: int


class Content:
    """Adds up what is found, and words what cannot be so."""

    def __init__(self, problems: list[str]) -> None:
        self._problems = problems
        self._series = self._bars = self._unproven = 0

    def timeframe(self, name: str, written: str) -> Timeframe | None:
        """That of one more series, if it is one."""
        self._series += 1
        try:
            return Timeframe.parse(written)
        except InvalidInput:
            self._problems.append(f"{name} has no timeframe that is one.")
            return None

    def count(self, name: str, timeframe: Timeframe, counts: Counts) -> None:
        """Takes what there is of that series."""
        self._bars += counts.bars
        self._unproven += counts.bars - counts.proven - counts.denied
        if counts.astray:
            self._problems.append(f"{name} has {counts.astray} bars off the grid of {timeframe}.")
        if counts.out_of_time:
            self._problems.append(f"{name} has bars outside the years 1970 to 2099.")
        if counts.denied:
            self._problems.append(
                f"{name} has {counts.denied} bars where its coverage says that there are none."
            )

    def facts(self, trades: int) -> Iterator[str]:
        """How much there is."""
        yield f"{self._series:,} series"
        yield f"{self._bars:,} bars"
        yield f"{trades:,} trades"
        if self._unproven:
            yield f"{self._unproven:,} bars in ranges that are asked for again"


def doubts(owners: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Statements that count what should not be there, and what to say of that many.

    `owners` says of each table whose rows it has.
    """
    for table, owner in owners.items():
        told = f"The table {table} has rows of {{}} {owner} that nothing names."
        yield _STRAY.format(table=table, owner=owner), told
    for table, (owner, called) in _COVERAGES.items():
        statement = _CROOKED.format(table=table, owner=owner, least=MIN_MS, most=MAX_MS)
        yield statement, f"{{}} ranges of the {called} are empty, overlap or lie outside of time."


def schema_facts(version: int, newest: int, problems: list[str]) -> Iterator[str]:
    """What to say of the version of the schema."""
    yield f"schema {version} of {newest}"
    if version > newest:
        problems.append("It was made by a newer marketd: upgrade this one.")
    elif version == 0:
        problems.append("It holds nothing of marketd's.")
    elif version < newest:
        yield "brought up to date by the next start"
