"""Bars that are measured in trades instead of time: so many of them, or so much volume, a bar.

A bar ends with the millisecond in which it is full: trades of one millisecond, such as the fills of one
order, are never torn apart, so that a bar may hold a little more, no two open at the same time, and the
order in which trades of one millisecond came decides nothing but open and close. Counting begins anew
with every UTC day, and behind whatever is missing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from copy import copy
from dataclasses import dataclass
from decimal import Decimal
from typing import Self

from marketd.domain.bar import Bar, Tick
from marketd.domain.errors import InvalidInput
from marketd.domain.timeframe import day_of

_PATTERN = re.compile(r"([1-9][0-9]{0,6})t|([0-9]{1,9}(?:\.[0-9]{1,8})?)v")


@dataclass(frozen=True, slots=True)
class Tickframe:
    """How much makes a bar: `100t`, a hundred trades, or `2.5v`, 2.5 units of volume."""

    size: Decimal
    unit: str

    @classmethod
    def parse(cls, text: str) -> Self:
        """What `text` names; InvalidInput for anything else."""
        match = _PATTERN.fullmatch(text)
        if match is not None:
            size = Decimal(match[1] or match[2])
            if size > 0:
                return cls(size.normalize(), text[-1])
        raise InvalidInput(
            "A bar of trades is a count and t, like 100t, or a volume and v, like 2.5v.",
            field="timeframe",
        )

    def __str__(self) -> str:
        return f"{self.size:f}{self.unit}"


class _Begun:
    """A bar to which trades are still added."""

    __slots__ = ("_close", "_count", "_high", "_low", "_open", "_volume", "last_ms", "t_ms")

    def __init__(self, t_ms: int, price: float) -> None:
        self.t_ms = self.last_ms = t_ms
        self._open = self._high = self._low = self._close = price
        self._count = 0
        self._volume = Decimal()

    def add(self, t_ms: int, price: float, size: float) -> None:
        self.last_ms = t_ms
        if price > self._high:
            self._high = price
        elif price < self._low:
            self._low = price
        self._close = price
        self._count += 1
        # As it is written: fifty trades of 0.1 are 5, which is not so of the binary fractions.
        self._volume += Decimal(repr(size))

    def is_full(self, frame: Tickframe) -> bool:
        return (self._count if frame.unit == "t" else self._volume) >= frame.size

    def bar(self) -> Bar:
        return (self.t_ms, self._open, self._high, self._low, self._close, float(self._volume))


class TickBarMaker:
    """Makes bars out of trades, which are to be given in the order of time, in whatever pieces."""

    def __init__(self, frame: Tickframe) -> None:
        self._frame = frame
        self._begun: _Begun | None = None
        self._is_cut = False

    @property
    def forming(self) -> Bar | None:
        """The bar that is not closed yet: nothing is, before a trade of a later bar is there."""
        return None if self._begun is None else self._begun.bar()

    def take(self, ticks: Iterable[Tick]) -> list[Bar]:
        """Adds trades, and gives the bars that they have closed."""
        closed: list[Bar] = []
        begun = self._begun
        for t_ms, price, size, _, _ in ticks:
            if begun is not None and t_ms != begun.last_ms and self._ends(begun, t_ms):
                closed.append(begun.bar())
                begun = None
            if begun is None:
                begun = _Begun(t_ms, price)
                self._is_cut = False
            begun.add(t_ms, price, size)
        self._begun = begun
        return closed

    def cut(self) -> None:
        """Says that trades are missing here: the next one begins a bar."""
        self._is_cut = True

    def copy(self) -> TickBarMaker:
        """One that goes on from here by itself."""
        other = copy(self)
        other._begun = copy(self._begun)
        return other

    def _ends(self, begun: _Begun, t_ms: int) -> bool:
        """Whether a trade at `t_ms`, later than those of a bar, begins another."""
        return self._is_cut or begun.is_full(self._frame) or day_of(t_ms) != day_of(begun.t_ms)
