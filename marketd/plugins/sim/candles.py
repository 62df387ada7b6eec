"""Bars and trades in whole numbers: prices as counts of the price step, volumes as counts of lots.

Whole numbers are why every level of the simulation agrees with the next to the last bit. They become
floating point in one place, `marketd.plugins.sim.listings`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from marketd.domain.timeframe import IntArray

BoolArray = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, eq=False)
class Candles:
    """Bars as columns of equal length, ascending by `t` (epoch milliseconds)."""

    t: IntArray
    open: IntArray
    high: IntArray
    low: IntArray
    close: IntArray
    volume: IntArray

    def __len__(self) -> int:
        return len(self.t)

    @property
    def columns(self) -> tuple[IntArray, ...]:
        return self.t, self.open, self.high, self.low, self.close, self.volume

    def rows(self, start: int, stop: int) -> Candles:
        """The rows `[start, stop)`."""
        return Candles(*(column[start:stop] for column in self.columns))

    def between(self, since_ms: int, before_ms: int) -> Candles:
        """Those that open in `[since_ms, before_ms)`."""
        start, stop = np.searchsorted(self.t, (since_ms, before_ms)).tolist()
        return self.rows(start, stop)

    @staticmethod
    def join(parts: Sequence[Candles]) -> Candles:
        """One after the other; at least one."""
        return Candles(*map(np.concatenate, zip(*(part.columns for part in parts), strict=True)))

    def folded(self, t_ms: int) -> Candles:
        """All of them (at least one) as one bar at `t_ms`."""
        return Candles(
            np.array([t_ms]),
            self.open[:1],
            self.high.max(keepdims=True),
            self.low.min(keepdims=True),
            self.close[-1:],
            self.volume.sum(keepdims=True),
        )


@dataclass(frozen=True, slots=True, eq=False)
class Trades:
    """Trades as columns of equal length, strictly ascending by `t` (epoch milliseconds)."""

    t: IntArray
    price: IntArray
    size: IntArray
    bought: BoolArray

    def __len__(self) -> int:
        return len(self.t)

    def between(self, since_ms: int, before_ms: int) -> Trades:
        """Those that happen in `[since_ms, before_ms)`."""
        start, stop = np.searchsorted(self.t, (since_ms, before_ms)).tolist()
        part = slice(start, stop)
        return Trades(self.t[part], self.price[part], self.size[part], self.bought[part])

    def as_candles(self) -> Candles:
        """Every trade as a bar of its own."""
        return Candles(self.t, self.price, self.price, self.price, self.price, self.size)
