"""Tells clients what has changed in bars that were published, whoever has changed it.

A revision of a stored bar is told as it is. A bar that is new in an interval which was passed without
one is found by looking, and so is what the store could not tell.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import NamedTuple

from marketd.domain.bar import Bar, same_bar
from marketd.domain.errors import StorageFailed
from marketd.domain.instrument import Series
from marketd.domain.timerange import TimeRange
from marketd.storage import Change, Storage
from marketd.streaming.events import BarEvent

log = logging.getLogger(__name__)

# How many bars are remembered as they were told last.
_REMEMBERED = 300
# The most revisions of one change that are told: the newest.
_MOST_TOLD = 1_000
_PAUSE_S = 1.0
_NOWHERE = TimeRange(0, 0)


class _Told(NamedTuple):
    bar: Bar
    rev: int


class Corrections:
    """What was told of one base series of late. `emit` is given the revisions."""

    def __init__(
        self, storage: Storage, series: Series, next_ms: int, emit: Callable[[BarEvent], None]
    ) -> None:
        self._storage = storage
        self._series = series
        self._emit = emit
        self._told: dict[int, _Told] = {}
        # Every bar that was told between these is remembered.
        self._first_ms = self._next_ms = next_ms
        # Revisions of bars that are just being published as they were before.
        self._ahead: dict[int, _Told] = {}
        self._changes = 0
        self._unseen = _NOWHERE
        self._has_unseen = asyncio.Event()

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
        self._changes += 1
        recent = TimeRange(self._first_ms, self._next_ms)
        if change is None:
            self._look(recent)
            return
        for bar, rev in change.revised[-_MOST_TOLD:]:
            if bar[0] < self._next_ms:
                self._tell(_Told(bar, rev))
            elif len(self._ahead) < _MOST_TOLD:
                self._ahead[bar[0]] = _Told(bar, rev)
        touched = change.span.clip(recent)
        if not touched.is_empty and (not change.revised or self._has_unknown(touched)):
            self._look(touched)

    async def run(self) -> None:
        """Looks at what was stored where that is needed, until cancelled."""
        while True:
            await self._has_unseen.wait()
            span, changes = self._unseen, self._changes
            try:
                stored = await self._storage.read(self._series, span, limit=2 * _REMEMBERED)
            except StorageFailed as error:
                log.warning("corrections wait series=%s reason=%s", self._series, error.message)
                await asyncio.sleep(_PAUSE_S)
                continue
            if self._changes != changes:
                # What was read may be out of date by now.
                continue
            self._unseen = _NOWHERE
            self._has_unseen.clear()
            for bar in stored.bars:
                if bar[0] >= self._first_ms:
                    told = self._told.get(bar[0])
                    self._tell(_Told(bar, 1 if told is None else told.rev))

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
            forgotten_ms = next(iter(self._told))
            del self._told[forgotten_ms]
            self._first_ms = max(self._first_ms, self._series.timeframe.end(forgotten_ms))

    def _has_unknown(self, span: TimeRange) -> bool:
        """Whether an interval in `span` was passed without a bar."""
        t_ms = self._series.timeframe.ceil(span.start_ms)
        while t_ms in self._told:
            t_ms = self._series.timeframe.end(t_ms)
        return t_ms < span.end_ms

    def _look(self, span: TimeRange) -> None:
        if not self._unseen.is_empty:
            span = TimeRange(
                min(self._unseen.start_ms, span.start_ms), max(self._unseen.end_ms, span.end_ms)
            )
        self._unseen = span
        self._has_unseen.set()
