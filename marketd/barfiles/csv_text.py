"""Bars as lines of CSV, with every digit."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from marketd.domain.bar import Bar, Value

HEADING = "timestamp_ms,open,high,low,close,volume"


def csv_row(bar: Bar) -> str:
    """The line of a bar, without its end: see HEADING."""
    text = ",".join(map(repr, bar))
    # None, nan and inf are the values that CSV writes otherwise; all of them have an n.
    return ",".join(map(csv_value, bar)) if "n" in text else text


def csv_value(value: Value) -> str:
    """The shortest text that is this very number; nothing for None."""
    if value is None:
        return ""
    if math.isfinite(value):
        return repr(value)
    return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")
