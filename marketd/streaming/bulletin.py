"""What the leader of a series tells other nodes: where it stands, and what has just happened there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import ormsgpack

from marketd.domain.bar import Bar
from marketd.encoding import to_msgpack


class Bulletin(NamedTuple):
    """One word of a leader. Every bar that opens before `next_ms` is stored, or does not exist.

    `bars` are all that open from `from_ms` on up to there; None: they are to be looked up. `fence` is
    the leader's, `sent_ms` its time, `state` and `message` the health of its feed.
    """

    fence: int
    sent_ms: int
    from_ms: int
    next_ms: int
    bars: Sequence[Bar] | None
    forming: Bar | None
    state: str
    message: str

    def pack(self) -> bytes:
        """As bytes, for the bus."""
        return to_msgpack(tuple(self))

    @classmethod
    def unpack(cls, data: bytes) -> Bulletin | None:
        """What was packed; None if it is of a marketd that says it otherwise."""
        try:
            bulletin = cls(*ormsgpack.unpackb(data))
            bars = None if bulletin.bars is None else [_bar(row) for row in bulletin.bars]
            forming = None if bulletin.forming is None else _bar(bulletin.forming)
        except (ValueError, TypeError):
            return None
        return bulletin._replace(bars=bars, forming=forming)


def _bar(row: Sequence[float | None]) -> Bar:
    t_ms, open_, high, low, close, volume = row
    return (int(t_ms or 0), open_, high, low, close, volume)
