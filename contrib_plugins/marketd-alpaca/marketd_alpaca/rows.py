"""Alpaca's rows as bars and ticks. Raises ValueError, TypeError or LookupError for anything else."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from marketd.domain.bar import Bar, Tick
from marketd.domain.instant import epoch_ms

# Who took: only crypto says.
_SIDES = {"B": "buy", "S": "sell"}


def bar_of(row: Mapping[str, Any]) -> Bar:
    return (
        epoch_ms(row["t"]),
        float(row["o"]),
        float(row["h"]),
        float(row["l"]),
        float(row["c"]),
        float(row["v"]),
    )


def tick_of(row: Mapping[str, Any]) -> Tick:
    return (
        epoch_ms(row["t"]),
        float(row["p"]),
        float(row["s"]),
        _SIDES.get(row.get("tks", ""), ""),
        str(row.get("i", "")),
    )


def stands(row: Mapping[str, Any]) -> bool:
    """False of a trade that was cancelled, or corrected, which is a trade of its own."""
    return row.get("u") not in ("canceled", "incorrect")


def since_text(t_ms: int) -> str:
    """A time as Alpaca takes it."""
    return datetime.fromtimestamp(t_ms / 1000, UTC).isoformat(timespec="milliseconds")


def before_text(t_ms: int) -> str:
    """The last nanosecond before a time: Alpaca takes in what a range ends with."""
    return since_text(t_ms - 1).replace("+00:00", "999999Z")
