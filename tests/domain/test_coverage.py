from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from marketd.domain.coverage import Covered, Reason, gaps_in, lay, proven
from marketd.domain.timerange import TimeRange

REASONS = st.sampled_from([reason for reason in Reason if reason is not Reason.PENDING])
STATEMENTS = st.lists(st.builds(Covered, st.integers(0, 30), st.integers(0, 30), REASONS), max_size=8)


def moments(coverage: list[Covered]) -> dict[int, Reason]:
    return {t: one.reason for one in coverage for t in range(one.start_ms, one.end_ms)}


def is_fewest(coverage: list[Covered]) -> bool:
    return all(
        one.end_ms < other.start_ms or (one.end_ms == other.start_ms and one.reason is not other.reason)
        for one, other in pairwise(coverage)
    )


@given(STATEMENTS)
def test_of_every_moment_the_newest_proof_counts_or_else_the_newest_word(stated: list[Covered]) -> None:
    wanted: dict[int, Reason] = {}
    for one in stated:
        for t in range(one.start_ms, one.end_ms):
            if one.reason.is_proof or t not in wanted or not wanted[t].is_proof:
                wanted[t] = one.reason
    laid = lay([], stated)
    assert moments(laid) == wanted
    assert is_fewest(laid)


@given(STATEMENTS, STATEMENTS)
def test_what_is_said_in_two_steps_comes_to_what_is_said_in_one(
    first: list[Covered], then: list[Covered]
) -> None:
    assert lay(lay([], first), then) == lay([], [*first, *then]) == lay(lay([], first), lay([], then))


@given(STATEMENTS, st.integers(0, 30), st.integers(0, 30))
def test_gaps_are_what_is_not_proven_each_with_its_reason(
    stated: list[Covered], start: int, end: int
) -> None:
    coverage = lay([], stated)
    gaps = gaps_in(TimeRange(start, end), coverage)
    known = moments(coverage)
    told = {t: known.get(t, Reason.PENDING) for t in range(start, end)}
    assert moments(gaps) == {t: reason for t, reason in told.items() if not reason.is_proof}
    assert is_fewest(gaps)
    proofs = {t for piece in proven(coverage) for t in range(*piece)}
    assert proofs == {t for t, reason in known.items() if reason.is_proof}
