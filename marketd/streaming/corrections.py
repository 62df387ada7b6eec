"""Tells clients what has changed in bars that were published, whoever has changed it.

The store says that something has changed, and is asked what: every change of its own once, in order.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import NamedTuple

from marketd.domain.bar import Bar, same_bar
from marketd.domain.errors import StorageFailed
from marketd.domain.instrument import Series
from marketd.storage import Change, Storage
from marketd.streaming.events import BarEvent, ChangesTold, Event

log = logging.getLogger(__name__)

# How many bars are remembered as they were told last.
_REMEMBERED = 300
# The most revisions of one change that are told: the newest.
_MOST_TOLD = 1_000
_PAUSE_S = 1.0


class _Told(NamedTuple):
    bar: Bar
    rev: int


class Corrections:
    """What was told of one base series of late. `emit` is given the revisions."""

    def __init__(
        self, storage: Storage, series: Series, next_ms: int, emit: Callable[[Event], None]
    ) -> None:
        self.number: int | None = None
        """Every change up to the one of this number was told; None as long as nobody knows."""
        self._storage = storage
        self._series = series
        self._emit = emit
        self._told: dict[int, _Told] = {}
        self._next_ms = next_ms
        # Revisions of bars that are just being published as they were before.
        self._ahead: dict[int, _Told] = {}
        self._was_asked = asyncio.Event()
        self._has_changed = asyncio.Event()
        self._has_changed.set()

    def published(self, bars: Sequence[Bar], next_ms: int) -> None:
        """Bars were published as closed, all there are up to `next_ms`."""
        self._next_ms = next_ms
        for bar in bars:
            self._remember(_Told(bar, 0))
        ahead, self._ahead = self._ahead, {}
        for t_ms, told in ahead.items():
            if t_ms < next_ms:
                self._tell(told)
            else:
                self._ahead[t_ms] = told

    def changed(self, change: Change | None) -> None:
        """Something was stored, of this series; None: it may be."""
        if change is None or change.is_revision:
            self._has_changed.set()

    async def run(self) -> None:
        """Asks the store what has changed, whenever something may have, until cancelled."""
        while True:
            await self._has_changed.wait()
            self._has_changed.clear()
            # What was there at first is history.
            after, limit = (0, 0) if self.number is None else (self.number, _MOST_TOLD)
            try:
                found = await self._storage.revised(self._series, after=after, limit=limit)
            except StorageFailed as error:
                log.warning("corrections wait series=%s reason=%s", self._series, error.message)
                self._was_asked.set()
                self._has_changed.set()
                await asyncio.sleep(_PAUSE_S)
                continue
            for bar, rev in found.bars:
                # What is new in an interval that was passed is its first revision.
                told = _Told(bar, max(rev, 1))
                if bar[0] < self._next_ms:
                    self._tell(told)
                elif len(self._ahead) < _MOST_TOLD:
                    self._ahead[bar[0]] = told
            self.number = found.number
            self._was_asked.set()
            self._emit(ChangesTold(found.number))

    async def known(self) -> int | None:
        """The number, once the store was asked for it; what is read or told after that is as of then."""
        await self._was_asked.wait()
        return self.number

    def _tell(self, told: _Told) -> None:
        before = self._told.get(told.bar[0])
        if before is not None:
            if told.rev < before.rev or same_bar(before.bar, told.bar):
                # A change may be told twice, and a bar published as it is stored already.
                return
            told = told._replace(rev=max(told.rev, before.rev + 1))
        self._remember(told)
        self._emit(BarEvent(told.bar, closed=True, rev=told.rev))

    def _remember(self, told: _Told) -> None:
        self._told.pop(told.bar[0], None)
        self._told[told.bar[0]] = told
        if len(self._told) > _REMEMBERED:
            del self._told[next(iter(self._told))]
