"""What is known of an instrument's trades, and what is missing, by their stored coverage."""

from __future__ import annotations

from collections.abc import Sequence

from marketd.domain.coverage import Covered, Gap, Reason, gaps_in, lay
from marketd.domain.timerange import MAX_MS, MIN_MS, TimeRange, merge, subtract


def known(coverage: Sequence[Covered]) -> list[TimeRange]:
    """The ranges of which all trades are stored, or are known to be lost."""
    return [one.range for one in coverage if one.reason.is_proof or one.reason is Reason.UNRECOVERABLE]


def newest_known(coverage: Sequence[Covered], since_ms: int) -> int:
    """Where the last of these ends; `since_ms` if there is none."""
    ranges = known(coverage)
    return ranges[-1].end_ms if ranges else since_ms


def reach_known(reach: TimeRange, coverage: Sequence[Covered], gaps: Sequence[Gap]) -> tuple[int, int]:
    """Where the first part of `reach` begins of which trades may still be had, and its last one.

    What is missing behind all that is known a stream may still prove.
    """
    newest_ms = newest_known(coverage, reach.start_ms)
    lost = [gap.range for gap in gaps if gap.reason is Reason.UNRECOVERABLE and gap.end_ms <= newest_ms]
    unknown = subtract(reach, merge([*known(coverage), *lost]))
    return unknown[0].start_ms if unknown else reach.end_ms, newest_ms


def unproven(
    reach: TimeRange, coverage: Sequence[Covered], reason: Reason, *, but: Sequence[TimeRange]
) -> list[Gap]:
    """What of `reach` is not proven, `but` for some of it; `reason` is that of what nobody knows.

    That is apart from what is stated, if the reason is the same, too.
    """
    return [
        Gap(*piece, reason if gap.reason is Reason.PENDING else gap.reason)
        for gap in gaps_in(reach, coverage)
        for piece in subtract(gap.range, but)
    ]


def still_told(gaps: Sequence[Gap], followed_ms: int, now_ms: int) -> list[Gap]:
    """The same where somebody, here or in another process, has followed the trades since `followed_ms`.

    Who does will know of the time up to the present with the next trade.
    """
    if not gaps or gaps[-1].end_ms < now_ms:
        return lay([], gaps)
    *before, last = gaps
    lost = last.clip(TimeRange(MIN_MS, followed_ms))
    awaited = last.clip(TimeRange(followed_ms, MAX_MS))._replace(reason=Reason.PENDING)
    return lay([], [*before, lost, awaited])
