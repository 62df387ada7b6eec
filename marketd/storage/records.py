"""What goes into a store and comes out of it, and up to where an answer speaks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple, TypeAlias

from marketd.domain.bar import Bar, Tick
from marketd.domain.coverage import Covered
from marketd.domain.instrument import Series
from marketd.domain.timeframe import Timeframe
from marketd.domain.timerange import TimeRange


class Revision(NamedTuple):
    """A stored bar that has changed: what it is now, and the how-manieth change that is (1, 2 …).

    0 if it is new where there was none.
    """

    bar: Bar
    rev: int


class Stored(NamedTuple):
    """What a write has changed: bars that are new, and bars that are different from now on.

    Of the new ones `late` lie where something was known already.
    """

    inserted: int
    revised: Sequence[Revision]
    late: int = 0


class Revised(NamedTuple):
    """Bars of a series that have changed, ascending, as they are now; `number` is that of the latest of
    all changes."""

    number: int
    bars: Sequence[Revision]


class StoredBars(NamedTuple):
    """Bars, ascending, and the coverage of the range that was read, both of one instant."""

    bars: list[Bar]
    coverage: list[Covered]


class StoredTicks(NamedTuple):
    """Trades, ascending, and the coverage of the range that was read, both of one instant.

    `number` is that of the instrument's trade that was stored last, see `Storage.ticks_after`.
    """

    ticks: list[Tick]
    coverage: list[Covered]
    number: int = 0


class AddedTicks(NamedTuple):
    """Trades that a write has added, ascending; they have the numbers above `before` up to `number`.

    Every other trade of the instrument that is stored then has one up to `before`.
    """

    ticks: list[Tick]
    before: int = 0
    number: int = 0


class NumberedTick(NamedTuple):
    """A trade and its number, see `Storage.ticks_after`."""

    number: int
    tick: Tick


def reach_of(
    bars: Sequence[Bar], timeframe: Timeframe, span: TimeRange, *, limit: int, newest: bool
) -> TimeRange:
    """The part of `span` that `bars`, read from it with `limit`, speak of."""
    if len(bars) < limit or not bars:
        return span
    return cut_reach(bars[0][0], bars[-1][0], timeframe, span, newest=newest)


def cut_reach(
    first_ms: int, last_ms: int, timeframe: Timeframe, span: TimeRange, *, newest: bool
) -> TimeRange:
    """The part of `span` that bars speak of where a limit cut: the first opens at `first_ms`."""
    if newest:
        return TimeRange(first_ms, span.end_ms)
    return TimeRange(span.start_ms, timeframe.end(last_ms))


def reach_of_ticks(ticks: Sequence[Tick], span: TimeRange, *, limit: int, newest: bool) -> TimeRange:
    """The same of trades. The limit may have cut through the millisecond that it ends with."""
    if len(ticks) < limit or not ticks:
        return span
    if newest:
        return TimeRange(ticks[0][0], span.end_ms)
    return TimeRange(span.start_ms, ticks[-1][0] + 1)


class Job(NamedTuple):
    """Work that outlives the process. `body` is JSON text that only whoever does the work reads.

    It is to be worked on from `due_ms` on, by whoever claims it; never while that is None. `claim` is
    empty while nobody has claimed it.
    """

    id: str
    kind: str
    state: str
    body: str
    created_ms: int
    updated_ms: int
    due_ms: int | None = None
    claim: str = ""


def in_turn(jobs: Iterable[Job]) -> list[Job]:
    """Due jobs, in the order in which they are to be worked on."""
    return sorted(jobs, key=lambda job: (job.due_ms or 0, job.created_ms, job.id))


class Checkup(NamedTuple):
    """How a database is: what there is in it, in a few words each, and what is wrong, in sentences."""

    facts: Sequence[str]
    problems: Sequence[str]


class QueryPlan(NamedTuple):
    """How the database runs one of the store's statements, step by step.

    `scans` are the steps that look at a whole table, or sort. `took_ms` is what one run took, None of
    one that would change something.
    """

    name: str
    statement: str
    steps: Sequence[str]
    scans: Sequence[str]
    took_ms: float | None


class Change(NamedTuple):
    """Bars that are new or revised: all of them open in `span`.

    `is_revision` if there may be some among them that `Storage.revised` gives.
    """

    series: Series
    span: TimeRange
    is_revision: bool


Changed: TypeAlias = Callable[[Change | None], None]
