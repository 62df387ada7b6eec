"""What a stream has said last, kept for clients that come back, and the cursor of where they stood.

The ring lives in memory, and is a help, not a promise: what it has no more, or what another process has
said, is read from the store, which is the truth and numbers its changes.
"""

from __future__ import annotations

from collections import deque
from hashlib import blake2b
from secrets import token_hex
from typing import NamedTuple, Self

from marketd.domain.errors import InvalidInput
from marketd.domain.timerange import MAX_MS
from marketd.domain.token import pack, unpack
from marketd.streaming.messages import Message, StreamName

_KIND = "cursor"
_MARK = 8


class Cursor(NamedTuple):
    """How far a client has been told: every closed bar that opens before `next_ms`, as it was when the
    ring of that name had been given `seq` messages, and the store had been changed `number` times.

    None: how often nobody knows; of trades nobody asks.
    """

    next_ms: int
    ring: str
    seq: int
    number: int | None = None

    def token(self) -> str:
        """The cursor as clients see it."""
        number = "" if self.number is None else self.number
        return pack(_KIND, f"{self.next_ms}.{self.ring}.{self.seq}.{number}")

    def within_history(self, next_ms: int) -> Self:
        """The cursor of who has been told the history before `next_ms` so far, and nothing since."""
        return self._replace(next_ms=next_ms, ring=self.ring[:_MARK], seq=0)

    def is_of(self, stream: StreamName) -> bool:
        """Whether it was given for this stream, by whichever process."""
        return self.ring.startswith(_mark(stream))

    @classmethod
    def parse(cls, token: str, *, field: str) -> Self:
        """What `token` gave; InvalidInput, naming the field it came in, for any other text."""
        parts = unpack(token, _KIND, field=field).split(".")
        if len(parts) == 4:
            next_ms, ring, seq, number = parts
            if all(
                one.isascii() and one.isdigit() and len(one) < 20
                for one in (next_ms, seq, number or "0")
            ):
                cursor = cls(int(next_ms), ring, int(seq), int(number) if number else None)
                if cursor.next_ms <= MAX_MS:
                    return cursor
        raise InvalidInput(f"{field} is not one that was given for this question.", field=field)


class Replay(NamedTuple):
    """What a client has missed: the closed bars from its cursor to `whole_ms`, then `messages`."""

    whole_ms: int
    messages: list[Message]


class _Said(NamedTuple):
    next_ms: int
    message: Message


class Ring:
    """The last `size` messages of one stream that must not be missed."""

    def __init__(self, stream: StreamName, size: int, next_ms: int) -> None:
        self._size = size
        self._name = _mark(stream) + token_hex(6)
        self._seq = 0
        # Up to where the stream was whole before the first message that is kept.
        self._before_ms = next_ms
        self._kept: deque[_Said] = deque()

    def cursor(self, next_ms: int, *, ahead: int = 0) -> Cursor:
        """The cursor of who has been told all until now, and of the message to be added `ahead`."""
        return Cursor(next_ms, self._name, self._seq + ahead)

    def add(self, message: Message, next_ms: int) -> None:
        """Keeps a message, with which the stream is whole up to `next_ms`."""
        self._seq += 1
        self._kept.append(_Said(next_ms, message))
        if len(self._kept) > self._size:
            self._before_ms = self._kept.popleft().next_ms

    def replay(self, cursor: Cursor) -> Replay | None:
        """What came after `cursor`; None if that is not known here, or not any more."""
        missed = self._seq - cursor.seq
        if cursor.ring != self._name or not 0 <= missed <= len(self._kept):
            return None
        first = len(self._kept) - missed
        whole_ms = self._kept[first - 1].next_ms if first else self._before_ms
        return Replay(whole_ms, [said.message for said in self._kept][first:])


def _mark(stream: StreamName) -> str:
    """What the names of all rings of a stream begin with."""
    return blake2b(str(stream).encode(), digest_size=_MARK // 2).hexdigest()
