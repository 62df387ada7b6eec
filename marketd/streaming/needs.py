"""What live needs of history, which the room that reads has, and of whoever minds the load."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import NamedTuple, Protocol, TypeAlias, TypeVar

from marketd.domain.bar import Bar
from marketd.domain.coverage import Gap
from marketd.domain.instrument import Series
from marketd.domain.timerange import TimeRange
from marketd.plugins.feed import Feed

# A feed, and the bars that are made of it.
F = TypeVar("F", contravariant=True)
S = TypeVar("S", contravariant=True)

# Entered while a bar is on its way to its clients, so that background work may wait.
Urgent: TypeAlias = Callable[[], AbstractContextManager[None]]


class PastBars(NamedTuple):
    """Closed bars, ascending: all there are up to `end_ms`, but for `gaps`."""

    bars: Sequence[Bar]
    end_ms: int
    gaps: list[Gap]


class Past(Protocol[F, S]):
    """Bars of any timeframe, for clients."""

    async def past(self, feed: F, series: S, *, since: int, before: int, limit: int) -> PastBars:
        """The first `limit` closed bars of `series`, which `feed` makes up, in `[since, before)`."""


class History(Past[Feed, Series], Protocol):
    """Bars of a base series, for whoever follows it."""

    async def closed(self, feed: Feed, span: TimeRange) -> tuple[list[Bar], list[Gap]]:
        """Every closed bar of `span`, which is stored by then, and the ranges that cannot be had.

        Raises ProviderFailed or NotReady while a part of it might still be had.
        """

    async def forming(self, feed: Feed) -> Bar | None:
        """The forming bar, if there has been a trade yet. Raises ProviderFailed or NotReady."""

    async def refetch(self, feed: Feed, span: TimeRange, *, background: bool) -> None:
        """Asks the provider for all of `span`, also for what is stored, and stores what has changed.

        In the `background` it gives way to whoever waits. Raises what the provider fails with.
        """
