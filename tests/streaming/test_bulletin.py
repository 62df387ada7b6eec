"""A leader's word survives the way to other nodes, and what is none does no harm."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from marketd.domain.timerange import MAX_MS
from marketd.streaming.bulletin import Bulletin

TIMES = st.integers(0, MAX_MS)
VALUES = st.one_of(st.none(), st.floats())
BARS = st.tuples(TIMES, VALUES, VALUES, VALUES, VALUES, VALUES)
BULLETINS = st.builds(
    Bulletin,
    fence=st.integers(0, 2**63 - 1),
    sent_ms=TIMES,
    from_ms=TIMES,
    next_ms=TIMES,
    bars=st.none() | st.lists(BARS, max_size=5),
    forming=st.none() | BARS,
    state=st.sampled_from(["live", "stale", "down"]),
    message=st.text(max_size=50),
)


@given(BULLETINS)
def test_what_is_told_is_what_is_heard(bulletin: Bulletin) -> None:
    # By repr, for which NaN is NaN.
    assert repr(Bulletin.unpack(bulletin.pack())) == repr(bulletin)


@given(st.binary(max_size=100))
def test_what_is_no_bulletin_is_ignored(data: bytes) -> None:
    assert Bulletin.unpack(data) is None


def test_the_word_of_another_version_is_ignored() -> None:
    said = Bulletin(1, 2, 3, 4, [], None, "live", "").pack()
    longer = bytes([said[0] + 1]) + said[1:] + b"\x01"  # one more field
    assert Bulletin.unpack(said) is not None
    assert Bulletin.unpack(longer) is None
