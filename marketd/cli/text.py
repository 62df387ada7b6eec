"""Bars, times and tables as text for people."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from typing import TYPE_CHECKING

from marketd.barfiles.csv_text import csv_value

if TYPE_CHECKING:
    from marketd.client import Gap
    from marketd.domain.bar import Bar, Value

_MOST_DECIMALS = 10


def iso(t_ms: int) -> str:
    """A time such as `2024-03-05T14:30:00Z`, with milliseconds only if it has some."""
    time = datetime.fromtimestamp(t_ms / 1000, UTC)
    return time.isoformat(timespec="milliseconds" if t_ms % 1000 else "seconds")[:-6] + "Z"


def gap_text(gap: Gap) -> str:
    """`gap 2024-03-05T14:30:00Z to 2024-03-05T14:35:00Z: feed_down`."""
    return f"gap {iso(gap.start_ms)} to {iso(gap.end_ms)}: {gap.reason}"


class BarFormat:
    """Writes bars with as many decimals as those shown so far need, prices alike and volumes alike."""

    def __init__(self) -> None:
        self._price_decimals = 0
        self._volume_decimals = 0

    def rows(self, bars: Sequence[Bar]) -> list[list[str]]:
        """The time and the five values of each bar, as text."""
        for _, *prices, volume in bars:
            self._price_decimals = max(self._price_decimals, *map(_decimals, prices))
            self._volume_decimals = max(self._volume_decimals, _decimals(volume))
        return [
            [
                iso(t_ms),
                *(_number(price, self._price_decimals) for price in prices),
                _number(volume, self._volume_decimals),
            ]
            for t_ms, *prices, volume in bars
        ]


def table(heading: Sequence[str], rows: Iterable[Sequence[str]], *, right: bool = False) -> str:
    """Aligned columns, two spaces apart; with `right` all but the first end in line."""
    lines = [heading, *rows]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if right and number else cell.ljust(width)
            for number, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def _decimals(value: Value) -> int:
    if value is None or not math.isfinite(value):
        return 0
    _, _, decimals = f"{Decimal(repr(value)):f}".partition(".")
    return min(len(decimals.rstrip("0")), _MOST_DECIMALS)


def _number(value: Value, decimals: int) -> str:
    if value is None:
        return "-"
    return f"{value:.{decimals}f}" if math.isfinite(value) else csv_value(value)
