"""Who follows an instrument is told each trade that is new in the store, once, whoever has stored it.

Within this process that is whoever keeps trades through `Tapes`. What other processes store in the same
database is known by its number, see `Storage.ticks_after`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import TypeAlias

from marketd.domain.bar import Tick, open_time
from marketd.domain.instrument import Instrument
from marketd.domain.timerange import MAX_MS, TimeRange
from marketd.storage import AddedTicks, Storage

# Called with the new trades, how often it was called of the instrument, this time included, and whether
# a stream has just said them.
Told: TypeAlias = Callable[[Sequence[Tick], int, bool], None]

# The most trades that are read at once.
_PAGE = 20_000


class TapeTeller:
    """One instrument's: who is told, since when, how often that was, and a lock with the store."""

    def __init__(self, storage: Storage, instrument: Instrument) -> None:
        self.told: Told | None = None
        self.known_ms: Callable[[], int] | None = None
        self.followed_ms = 0
        self.seq = 0
        self.number: int | None = None
        """Up to which number the stored trades were told; None until that is known."""
        self.lock = asyncio.Lock()
        """To be held by whoever calls what is async here, from the write or read before on."""
        self._storage = storage
        self._instrument = instrument

    def listen(self, told: Told, known_ms: Callable[[], int], now_ms: int) -> None:
        """See Tapes.listen."""
        self.told, self.known_ms, self.followed_ms = told, known_ms, now_ms
        # Of a database for this process alone everything is told as it is stored.
        self.number = None if self._storage.identity else 0

    def leave(self) -> None:
        """Ends that."""
        self.told = self.known_ms = None

    async def begin(self) -> None:
        """Tells what there is since it is followed, if the store could not be asked for that before."""
        if self.told is None or self.number is not None:
            return
        limit = _PAGE
        while True:
            span = TimeRange(self.followed_ms, MAX_MS)
            read = await self._storage.read_ticks(self._instrument, span, limit=limit)
            if len(read.ticks) < limit:
                break
            limit *= 2
        self._tell(read.ticks, read.number, is_live=False)

    async def added(self, added: AddedTicks, said: Sequence[Tick] | None) -> None:
        """Tells what a write has added, after what others had; a stream has just `said` it, if any."""
        await self.catch_up(added.before, said or ())
        self._tell(added.ticks, added.number, is_live=said is not None)

    async def heard(self, added: AddedTicks | None, number: int, *, is_live: bool) -> None:
        """Tells what another process says that it has added; None: it is to be looked up to `number`."""
        if added is not None and added.before == self.number:
            self._tell(added.ticks, added.number, is_live=is_live)
        else:
            await self.catch_up(number)

    async def catch_up(self, number: int, said: Sequence[Tick] = ()) -> None:
        """Tells what others have stored up to `number`. A stream has just `said` some of it."""
        live = set(said)
        while self.told is not None and self.number is not None and self.number < number:
            missed = await self._storage.ticks_after(
                self._instrument, self.number, until=number, limit=_PAGE
            )
            for is_live, run in groupby(missed, key=lambda one: one.tick in live):
                numbered = list(run)
                ticks = sorted((one.tick for one in numbered), key=open_time)
                self._tell(ticks, numbered[-1].number, is_live=is_live)
            if len(missed) < _PAGE:
                # What else had numbers up to there is gone again.
                self.number = number

    def _tell(self, ticks: Sequence[Tick], number: int, *, is_live: bool) -> None:
        if self.told is None:
            return
        self.number = number
        if ticks:
            self.seq += 1
            self.told(ticks, self.seq, is_live)
