"""Bars and ticks, as plain tuples: they go from the store to the wire without a copy.

A bar is `(t, open, high, low, close, volume)`: `t` is the OPEN time in epoch milliseconds UTC, and
the bar covers `[t, t + timeframe)`. A price or volume is a float, or None where the source has none;
NaN and the infinities keep their meaning.

A tick is one trade, `(t, price, size, side, id)`: price and size are finite, `side` is the taker's,
`buy` or `sell`, and `side` and `id` are empty where the source has none.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from itertools import chain
from math import inf
from operator import itemgetter
from typing import TypeAlias

import numpy as np

from marketd.domain.text import is_text
from marketd.domain.timeframe import Timeframe
from marketd.domain.timerange import MAX_MS, MIN_MS

Value: TypeAlias = float | None
Bar: TypeAlias = tuple[int, Value, Value, Value, Value, Value]
Tick: TypeAlias = tuple[int, float, float, str, str]

open_time = itemgetter(0)

_VALUE_TYPES = (float, int, type(None))
_NUMBER_TYPES = {float, int}
_SIDES = ("buy", "sell", "")
# By how much a provider's clock may be ahead of ours.
_CLOCKS_DIFFER_MS = 60_000


def bar_fault(bar: Bar, timeframe: Timeframe) -> str | None:
    """Why `bar` is refused, in one word (`shape`, `time`, `off_grid`, `range`, `volume`), or None."""
    if not isinstance(bar, tuple) or len(bar) != 6:
        return "shape"
    t, *values = bar
    if type(t) is not int or any(type(value) not in _VALUE_TYPES for value in values):
        return "shape"
    if not MIN_MS <= t < MAX_MS:
        return "time"
    if timeframe.floor(t) != t:
        return "off_grid"
    _, open_, high, low, close, volume = bar
    # A comparison with NaN is false, so these refuse only what is provably wrong.
    if low is not None and (
        (open_ is not None and open_ < low)
        or (close is not None and close < low)
        or (high is not None and high < low)
    ):
        return "range"
    if high is not None and (
        (open_ is not None and open_ > high) or (close is not None and close > high)
    ):
        return "range"
    if volume is not None and volume < 0:
        return "volume"
    return None


def tick_fault(tick: Tick, now_ms: int) -> str | None:
    """Why `tick` is refused at the present `now_ms`, in one word, or None.

    `shape`, `time`, `future` (further ahead than clocks differ), `price`, `size`, `side`.
    """
    if not isinstance(tick, tuple) or len(tick) != 5:
        return "shape"
    t, price, size, side, trade_id = tick
    numbers = {type(price), type(size)} <= _NUMBER_TYPES
    if type(t) is not int or not numbers or not (isinstance(side, str) and is_text(trade_id)):
        return "shape"
    if not MIN_MS <= t < MAX_MS:
        return "time"
    if t > now_ms + _CLOCKS_DIFFER_MS:
        return "future"
    if not 0 < price < inf:
        return "price"
    if not 0 <= size < inf:
        return "size"
    return None if side in _SIDES else "side"


def all_valid(bars: Sequence[Bar], timeframe: Timeframe) -> bool:
    """True if the bars ascend strictly and `bar_fault` finds nothing in any: one pass in numpy."""
    if not bars:
        return True
    # numpy would read "1.5" as a number and True as one: the kinds are checked first.
    if any(type(bar) is not tuple or len(bar) != 6 or type(bar[0]) is not int for bar in bars):
        return False
    if not set(map(type, chain.from_iterable(bars))).issubset(_VALUE_TYPES):
        return False
    # Compared by hand, since a time outside int64 would not fit into the array.
    if bars[0][0] < MIN_MS or max(map(open_time, bars)) >= MAX_MS:
        return False
    t_ms = np.fromiter(map(open_time, bars), dtype=np.int64, count=len(bars))
    if (t_ms[1:] <= t_ms[:-1]).any() or (timeframe.floor_array(t_ms) != t_ms).any():
        return False
    _, open_, high, low, close, volume = np.array(bars, dtype=np.float64).T
    wrong = (open_ < low) | (close < low) | (high < low) | (open_ > high) | (close > high) | (volume < 0)
    return not wrong.any()


def same_bar(one: Bar, other: Bar) -> bool:
    """True if both say the same; NaN equals NaN here."""
    return one == other or all(a == b or (a != a and b != b) for a, b in zip(one, other, strict=True))


def select(
    bars: Sequence[Bar], *, since: int | None = None, before: int | None = None, limit: int | None = None
) -> Sequence[Bar]:
    """The one range filter: with `since` the first `limit` bars from there, else the last `limit`.

    `bars` ascends by time; both bounds are epoch milliseconds, and `before` is exclusive. Where that
    is all of `bars`, it is that very sequence.
    """
    start = 0 if since is None else bisect_left(bars, since, key=open_time)
    stop = len(bars) if before is None else bisect_left(bars, before, key=open_time)
    if limit is not None and stop - start > limit:
        if since is None:
            start = stop - limit
        else:
            stop = start + limit
    return bars if stop - start == len(bars) else bars[start:stop]
