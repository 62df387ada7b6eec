"""How values are kept in columns: NaN, which SQLite would turn into NULL, as the text 'NaN'."""

from __future__ import annotations

import math
from typing import Any

from marketd.domain.bar import Bar

_NAN = "NaN"


def encoded(bar: Bar) -> tuple[Any, ...]:
    return tuple(_NAN if value != value else value for value in bar)


def decoded(row: tuple[Any, ...]) -> Bar:
    open_, high, low, close, volume = (math.nan if value == _NAN else value for value in row[1:])
    return (row[0], open_, high, low, close, volume)
