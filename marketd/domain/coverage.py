"""What is known of a series: range by range, what a provider has said of it, or that it has not.

Every list of Covered that is taken or given here is sorted and its ranges do not overlap, unless said
otherwise.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from enum import StrEnum
from typing import NamedTuple, TypeAlias

from marketd.domain.timerange import TimeRange, merge, subtract


class Reason(StrEnum):
    """Why a range has the bars that it has. What is no proof makes a gap."""

    DATA = "data"  # the provider answered: bars are where there were trades
    NO_TRADES = "no_trades"  # it answered with no bar at all
    CLOSED = "closed"  # the market was closed: nobody needs to ask
    FEED_DOWN = "feed_down"  # the provider failed when asked
    UNRECOVERABLE = "unrecoverable"  # what the provider sent for it cannot be right
    PENDING = "pending"  # not asked for yet, or there was no time left to; never stored

    @property
    def is_proof(self) -> bool:
        """True if every bar that there is in the range is stored."""
        return self in _PROOFS


_PROOFS = frozenset({Reason.DATA, Reason.NO_TRADES, Reason.CLOSED})
GAP_REASONS = tuple(reason for reason in Reason if not reason.is_proof)


class Covered(NamedTuple):
    """`[start_ms, end_ms)` of a series, and what is known of it."""

    start_ms: int
    end_ms: int
    reason: Reason

    @property
    def range(self) -> TimeRange:
        return TimeRange(self.start_ms, self.end_ms)

    def clip(self, other: TimeRange) -> Covered:
        """What lies in `other` (empty if nothing)."""
        return Covered(*self.range.clip(other), self.reason)


# The word for a Covered whose reason is no proof.
Gap: TypeAlias = Covered


def cover(ranges: Iterable[TimeRange], reason: Reason) -> list[Covered]:
    """The same of each of `ranges`."""
    return [Covered(*piece, reason) for piece in ranges]


def lay(coverage: Sequence[Covered], stated: Iterable[Covered]) -> list[Covered]:
    """`coverage` after the statements `stated`, oldest first, in the fewest ranges.

    The newest statement about a range wins, but what is no proof never replaces a proof.
    """
    laid = list(coverage)
    for batch in _batches(stated):
        known = proven(laid)
        shown: list[Covered] = []
        for new in batch:
            pieces = [new.range] if new.reason.is_proof else subtract(new.range, known)
            shown += cover(pieces, new.reason)
        laid = _joined([*_without(laid, shown), *shown])
    return laid


def proven(coverage: Iterable[Covered]) -> list[TimeRange]:
    """Where every bar that there is is stored, in the fewest ranges."""
    return merge(one.range for one in coverage if one.reason.is_proof)


def gaps_in(span: TimeRange, coverage: Sequence[Covered]) -> list[Gap]:
    """What of `span` is not proven, and why; what nobody has spoken of is pending."""
    told = [one.clip(span) for one in coverage]
    silent = cover(subtract(span, [one.range for one in told]), Reason.PENDING)
    return _joined([*(one for one in told if not one.reason.is_proof), *silent])


def _joined(pieces: Iterable[Covered]) -> list[Covered]:
    """Pieces that do not overlap, in any order, as the fewest: equal neighbours become one."""
    joined: list[Covered] = []
    for piece in sorted(pieces):
        last = joined[-1] if joined else None
        if piece.end_ms <= piece.start_ms:
            continue
        if last is not None and last.end_ms == piece.start_ms and last.reason is piece.reason:
            joined[-1] = Covered(last.start_ms, piece.end_ms, piece.reason)
        else:
            joined.append(piece)
    return joined


def _batches(stated: Iterable[Covered]) -> Iterator[list[Covered]]:
    """The same statements, those that ascend without an overlap together: their order is all one."""
    batch: list[Covered] = []
    for new in stated:
        if batch and new.start_ms < batch[-1].end_ms:
            yield batch
            batch = []
        if new.start_ms < new.end_ms:
            batch.append(new)
    yield batch


def _without(coverage: Sequence[Covered], shown: Sequence[Covered]) -> Iterator[Covered]:
    """What of `coverage` lies outside of `shown`."""
    at = 0
    for old in coverage:
        cursor_ms = old.start_ms
        while at < len(shown) and shown[at].start_ms < old.end_ms:
            yield Covered(cursor_ms, shown[at].start_ms, old.reason)
            cursor_ms = max(cursor_ms, shown[at].end_ms)
            if shown[at].end_ms > old.end_ms:
                break  # it goes on over what comes next
            at += 1
        yield Covered(cursor_ms, old.end_ms, old.reason)
