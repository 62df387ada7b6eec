"""Bars out of trades: the one aggregator."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from math import fsum

from marketd.domain.bar import Bar, Tick
from marketd.domain.timeframe import Timeframe

# What bars are made of trades where a provider has none that would do; others are derived.
MADE_OF_TICKS = (Timeframe.parse("1m"), Timeframe.parse("1s"))


def bars_of_ticks(ticks: Sequence[Tick], timeframe: Timeframe) -> list[Bar]:
    """The bars that `ticks` (ascending by time) make up; an interval without a trade gives none.

    open is the first price, high the highest, low the lowest, close the last. The volume is the exact
    sum, rounded once: it is the same in whatever order the trades came.
    """
    bars: list[Bar] = []
    for t_ms, trades in groupby(ticks, key=lambda tick: timeframe.floor(tick[0])):
        prices, sizes = zip(*((price, size) for _, price, size, _, _ in trades), strict=True)
        bars.append((t_ms, prices[0], max(prices), min(prices), prices[-1], fsum(sizes)))
    return bars
