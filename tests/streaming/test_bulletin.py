"""A leader's word survives the way to other nodes, and what is none does no harm."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketd.domain.timerange import MAX_MS
from marketd.streaming.bulletin import Bulletin
from marketd.streaming.tape_bulletin import TapeBulletin

TIMES = st.integers(0, MAX_MS)
NUMBERS = st.integers(0, 2**63 - 1)
VALUES = st.one_of(st.none(), st.floats())
BARS = st.tuples(TIMES, VALUES, VALUES, VALUES, VALUES, VALUES)
TICKS = st.tuples(TIMES, st.floats(), st.floats(), st.sampled_from(["buy", "sell", ""]), st.text())
HEALTH = {
    "state": st.sampled_from(["live", "stale", "down"]),
    "message": st.text(max_size=50),
}
BULLETINS = st.builds(
    Bulletin,
    fence=NUMBERS,
    sent_ms=TIMES,
    from_ms=TIMES,
    next_ms=TIMES,
    bars=st.none() | st.lists(BARS, max_size=5),
    forming=st.none() | BARS,
    **HEALTH,
)
TAPE_BULLETINS = st.builds(
    TapeBulletin,
    fence=NUMBERS,
    sent_ms=TIMES,
    before=NUMBERS,
    number=NUMBERS,
    ticks=st.none() | st.lists(TICKS, max_size=5),
    is_live=st.booleans(),
    from_ms=TIMES,
    known_ms=TIMES,
    has_gap=st.booleans(),
    **HEALTH,
)
KINDS = pytest.mark.parametrize("kind", [Bulletin, TapeBulletin])
SAID = {
    Bulletin: Bulletin(1, 2, 3, 4, [], None, "live", ""),
    TapeBulletin: TapeBulletin(1, 2, 3, 4, [], True, 5, 6, False, "live", ""),
}


@given(BULLETINS | TAPE_BULLETINS)
def test_what_is_told_is_what_is_heard(bulletin: Bulletin | TapeBulletin) -> None:
    # By repr, for which NaN is NaN.
    assert repr(type(bulletin).unpack(bulletin.pack())) == repr(bulletin)


@KINDS
@given(data=st.binary(max_size=100))
def test_what_is_no_bulletin_is_ignored(kind: type[Bulletin] | type[TapeBulletin], data: bytes) -> None:
    assert kind.unpack(data) is None


@KINDS
def test_the_word_of_another_version_is_ignored(kind: type[Bulletin] | type[TapeBulletin]) -> None:
    said = SAID[kind].pack()
    longer = bytes([said[0] + 1]) + said[1:] + b"\x01"  # one more field
    assert kind.unpack(said) is not None
    assert kind.unpack(longer) is None
