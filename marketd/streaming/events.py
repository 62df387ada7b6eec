"""What happens to a series while it is followed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, TypeAlias

from marketd.domain.bar import Bar, Tick
from marketd.domain.coverage import Gap


class BarEvent(NamedTuple):
    """A bar as it forms, or closed (`rev` 0), or a closed interval changed (`rev` 1, 2 …)."""

    bar: Bar
    closed: bool
    rev: int = 0


class Progress(NamedTuple):
    """Every bar that opens before `next_ms` has been published or does not exist."""

    next_ms: int


class ChangesTold(NamedTuple):
    """Every change of stored bars has been told, up to that of this `number` (see Storage.revised)."""

    number: int


class GapEvent(NamedTuple):
    """A range that live passes over, because what the provider has for it cannot be right."""

    gap: Gap


class TickEvent(NamedTuple):
    """New trades, ascending in time; `seq` counts what was told of the instrument, this included."""

    ticks: Sequence[Tick]
    seq: int


class RevisedEvent(NamedTuple):
    """The closed bars that open in `[start_ms, end_ms)` are these from now on, and no others."""

    start_ms: int
    end_ms: int
    bars: Sequence[Bar]


FEED_STATES = ("live", "stale", "down")


class HealthEvent(NamedTuple):
    """The feed is `live` again, `stale` because its stream was mute, or `down`; `message` says why."""

    state: str
    message: str


# What clients are told, and everything.
News: TypeAlias = BarEvent | GapEvent | HealthEvent
Event: TypeAlias = News | Progress | ChangesTold
# What clients are told of trades, and of bars that are measured in them.
TapeNews: TypeAlias = TickEvent | GapEvent | HealthEvent
TickBarNews: TypeAlias = News | RevisedEvent
