"""What the leader of an instrument's trades tells other nodes: where it stands, and what is new."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import ormsgpack

from marketd.domain.bar import Tick
from marketd.encoding import to_msgpack


class TapeBulletin(NamedTuple):
    """One word of a leader. What has numbers up to `number` is stored, see Storage.ticks_after.

    `ticks`, ascending in time, are all of these above `before`; None: they are to be looked up. They may
    be older than what was told before; `is_live` says that a stream has just told them. Up to `known_ms`
    all is stored or cannot be had, which may be so of a part of the time from `from_ms` on if it
    `has_gap`. `fence` is the leader's, `sent_ms` its time, `state` and `message` the health of its feed.
    """

    fence: int
    sent_ms: int
    before: int
    number: int
    ticks: Sequence[Tick] | None
    is_live: bool
    from_ms: int
    known_ms: int
    has_gap: bool
    state: str
    message: str

    def pack(self) -> bytes:
        """As bytes, for the bus."""
        return to_msgpack(tuple(self))

    @classmethod
    def unpack(cls, data: bytes) -> TapeBulletin | None:
        """What was packed; None if it is of a marketd that says it otherwise."""
        try:
            bulletin = cls(*ormsgpack.unpackb(data))
            ticks = None if bulletin.ticks is None else [_tick(row) for row in bulletin.ticks]
        except (ValueError, TypeError):
            return None
        return bulletin._replace(ticks=ticks)


def _tick(row: Sequence[object]) -> Tick:
    t_ms, price, size, side, trade_id = row
    return (int(t_ms), float(price), float(size), str(side), str(trade_id))  # type: ignore[call-overload, arg-type]
