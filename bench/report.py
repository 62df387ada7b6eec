"""Rounds that alternate between two contenders, and the table that they end in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import median

_WIDTHS = (38, 15, 30, 15, 6, 7)


@dataclass(frozen=True, slots=True)
class Versus:
    """Medians of several rounds; `ratio` is the median of the rounds' own ratios, ours to the peer's."""

    ours: float
    peer: float
    ratio: float


@dataclass(frozen=True, slots=True)
class Row:
    """A line of the table: what was measured, against what, and what was to be reached.

    `met` is None of what is only told.
    """

    work: str
    ours: str
    against: str
    theirs: str
    ratio: str
    reach: str
    met: bool | None


def alternate(ours: Callable[[], float], peer: Callable[[], float], rounds: int) -> Versus:
    """Measures both in turn, so that what else the machine does meets both alike."""
    return versus([(ours(), peer()) for _ in range(rounds)])


def versus(measured: Sequence[tuple[float, float]]) -> Versus:
    """What rounds have given, ours and the peer's."""
    return Versus(
        median(mine for mine, _ in measured),
        median(other for _, other in measured),
        median(mine / other for mine, other in measured),
    )


def faster(work: str, against: str, versus: Versus, unit: str, at_least: float) -> Row:
    """A row of rates: more is better."""
    return Row(
        work,
        _amount(versus.ours, unit),
        against,
        _amount(versus.peer, unit),
        f"{versus.ratio:.2f}x",
        f">= {at_least:.1f}x",
        versus.ratio >= at_least,
    )


def slower(work: str, against: str, versus: Versus, unit: str, at_most: float) -> Row:
    """A row of times: less is better."""
    return Row(
        work,
        f"{versus.ours:,.2f} {unit}",
        against,
        f"{versus.peer:,.2f} {unit}",
        f"{versus.ratio:.2f}x",
        f"<= {at_most:.1f}x",
        versus.ratio <= at_most,
    )


def within(work: str, value: float, limit: float, unit: str) -> Row:
    """A row with a fixed limit: less is better."""
    return Row(
        work,
        f"{value:,.2f} {unit}",
        "a fixed limit",
        f"{limit:g} {unit}",
        f"{value / limit:.2f}x",
        "< 1.0x",
        value < limit,
    )


def heading() -> str:
    """The first two lines of the table."""
    titles = _line("work", "marketd", "against", "it", "ratio", "reach", "")
    return f"{titles}\n{'-' * len(titles)}"


def line(row: Row) -> str:
    """A row as a line of the table."""
    told = {True: "met", False: "NOT met", None: ""}[row.met]
    return _line(row.work, row.ours, row.against, row.theirs, row.ratio, row.reach, told)


def _amount(value: float, unit: str) -> str:
    return f"{value / 1e6:,.1f} M {unit}" if value >= 1e6 else f"{value:,.0f} {unit}"


def _line(*cells: str) -> str:
    *padded, last = cells
    columns = [f"{cell:<{width}}" for cell, width in zip(padded, _WIDTHS, strict=True)]
    return "  ".join([*columns, f"{last:<7}"])
