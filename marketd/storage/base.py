"""The contract of a store. `tests/contract` holds every backend to it, sentence by sentence.

A store keeps, for each series, its closed bars and its coverage: the ranges that the provider has
answered for. It never decides what a range means; whoever stores says what the bars prove.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeAlias

from marketd.domain.bar import Bar
from marketd.domain.instrument import Series
from marketd.domain.timerange import TimeRange


class Revision(NamedTuple):
    """A stored bar that has changed: what it is now, and the how-manieth change that is (1, 2 …)."""

    bar: Bar
    rev: int


class Stored(NamedTuple):
    """What a write has changed: bars that are new, and bars that are different from now on."""

    inserted: int
    revised: Sequence[Revision]


class StoredBars(NamedTuple):
    """Bars, ascending, and the coverage of the range that was read, both of one instant."""

    bars: list[Bar]
    coverage: list[TimeRange]


Changed: TypeAlias = Callable[[Series, TimeRange], None]


class Storage(ABC):
    """Bars and coverage by series. Every method raises StorageFailed when the database does."""

    def __init__(self) -> None:
        self._listeners: list[Changed] = []

    def listen(self, changed: Changed) -> None:
        """Calls `changed` after every write that made or revised bars, before `store` returns.

        It is given the series and a range that all of these bars open in. It is called in the loop,
        also for a write whose caller was cancelled.
        """
        self._listeners.append(changed)

    def _tell(self, series: Series, span: TimeRange) -> None:
        for changed in self._listeners:
            changed(series, span)

    @abstractmethod
    async def open(self) -> None:
        """Takes ownership and brings the schema up to date. StorageLocked if another process owns it."""

    @abstractmethod
    async def close(self) -> None:
        """Ends what is under way and releases the store. Allowed at any time, also twice."""

    @abstractmethod
    async def store(
        self, series: Series, bars: Sequence[Bar], proven: Sequence[TimeRange], *, at_ms: int
    ) -> Stored:
        """Upserts `bars` and adds `proven` to the coverage, in one transaction.

        Durable when it returns, and all or nothing. The same bars stored again change nothing; a bar
        that differs replaces the old one as its next revision, changed at `at_ms`. `bars` ascends and
        is valid. A caller that is cancelled does not learn the outcome, but there is one: all or none.
        """

    @abstractmethod
    async def read(
        self, series: Series, span: TimeRange, *, limit: int, newest: bool = False
    ) -> StoredBars:
        """The first (or, `newest`, the last) `limit` bars of `span`, and the coverage of `span`."""
