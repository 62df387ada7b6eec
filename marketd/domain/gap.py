"""What is not known: a range of a series for which there is no proof, and why."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

from marketd.domain.timerange import TimeRange


class GapReason(StrEnum):
    """Why a range is not covered."""

    PENDING = "pending"  # not asked for yet, or there was no time left to
    FEED_DOWN = "feed_down"  # the provider failed when asked
    UNRECOVERABLE = "unrecoverable"  # what the provider sent cannot be right, or it keeps nothing so old


class Gap(NamedTuple):
    """`[start_ms, end_ms)` of a series that nobody has answered for."""

    start_ms: int
    end_ms: int
    reason: GapReason

    @property
    def range(self) -> TimeRange:
        return TimeRange(self.start_ms, self.end_ms)
