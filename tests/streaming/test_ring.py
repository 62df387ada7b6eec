"""What a client that comes back is told: all that it missed, or that it may lack something."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketd.domain.errors import InvalidInput
from marketd.domain.instrument import Instrument, Series, TickSeries
from marketd.domain.tickframe import Tickframe
from marketd.domain.timeframe import Timeframe
from marketd.domain.timerange import MAX_MS
from marketd.streaming.messages import Message
from marketd.streaming.ring import Cursor, Ring

SIZE = 4
BTC = Instrument("crypto", "sim", "BTC/USD")


@given(st.integers(0, MAX_MS), st.integers(0, 10**18), st.none() | st.integers(0, 10**18))
def test_a_cursor_is_what_its_token_says(next_ms: int, seq: int, number: int | None) -> None:
    cursor = Cursor(next_ms, "0a1b2c3d4e5f", seq, number)
    assert Cursor.parse(cursor.token(), field="resume") == cursor


@given(st.text())
def test_any_other_text_is_no_cursor(text: str) -> None:
    with pytest.raises(InvalidInput, match="resume"):
        Cursor.parse(text, field="resume")


@given(said=st.integers(0, 12), heard=st.integers(0, 12), size=st.integers(0, 6))
def test_all_that_came_after_a_cursor_is_replayed_or_nothing(said: int, heard: int, size: int) -> None:
    """Message n makes the stream whole up to n."""
    ring = Ring(BTC, size, 0)
    messages = [Message({"n": number}) for number in range(1, said + 1)]
    cursors = [ring.cursor(0)]
    for number, message in enumerate(messages, 1):
        ahead = ring.cursor(number, ahead=1)
        ring.add(message, number)
        assert ring.cursor(number) == ahead
        cursors.append(ahead)
    if heard > said:
        assert ring.replay(cursors[-1]._replace(seq=heard)) is None
        return
    replay = ring.replay(cursors[heard])
    if said - heard > size:
        assert replay is None
    else:
        assert replay == (heard, messages[heard:])


def test_the_cursor_of_another_ring_is_not_known() -> None:
    ring, other = Ring(BTC, SIZE, 0), Ring(BTC, SIZE, 0)
    assert ring.replay(other.cursor(0)) is None
    assert ring.replay(ring.cursor(0)) == (0, [])
    assert ring.replay(ring.cursor(0).within_history(0)) is None


def test_a_cursor_is_of_one_stream_whichever_process_gave_it() -> None:
    minutes, hours = Timeframe.parse("1m"), Timeframe.parse("1h")
    streams = [
        BTC,
        BTC._replace(symbol="ETH/USD"),
        Series(BTC, minutes),
        Series(BTC, hours),
        Series(BTC, minutes, "adjustment=split"),
        TickSeries(BTC, Tickframe.parse("100t")),
    ]
    for stream in streams:
        cursor = Ring(stream, SIZE, 0).cursor(0)
        assert [one for one in streams if cursor.is_of(one)] == [stream]
        assert cursor.within_history(5).is_of(stream)
