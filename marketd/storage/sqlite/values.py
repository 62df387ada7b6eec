"""How values are kept: NaN, which SQLite would turn into NULL, as the text 'NaN'."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from marketd.domain.bar import Bar

_NAN = "NaN"


def any_nan(bars: Sequence[Bar]) -> bool:
    # Only NaN differs from itself. Written out, since every bar that is stored passes here.
    for _, open_, high, low, close, volume in bars:
        if open_ != open_ or high != high or low != low or close != close or volume != volume:
            return True
    return False


def encoded(bar: Bar) -> tuple[Any, ...]:
    return tuple(_NAN if value != value else value for value in bar)


def decoded(row: tuple[Any, ...]) -> Bar:
    open_, high, low, close, volume = (math.nan if value == _NAN else value for value in row[1:])
    return (row[0], open_, high, low, close, volume)
