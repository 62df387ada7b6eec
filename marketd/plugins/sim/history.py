"""Everything that one listing ever trades, at every level, past and to come.

Nothing here knows the present but by argument. Every answer is computed from the top down: sessions,
their minutes, the seconds of a minute, the trades of a second. All methods may take milliseconds and
may be called from any thread.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import numpy as np

from marketd.domain.bar import Bar, Tick
from marketd.domain.timeframe import IntArray, Timeframe
from marketd.domain.timerange import TimeRange
from marketd.plugins.sim.calendar import Calendar
from marketd.plugins.sim.candles import Candles, Trades
from marketd.plugins.sim.days import Days
from marketd.plugins.sim.listings import Listing
from marketd.plugins.sim.noise import Noise
from marketd.plugins.sim.subdivide import Subdivision
from marketd.plugins.sim.trades import Tape

SECOND = Timeframe(1, "s")
MINUTE = Timeframe(1, "m")
DAY = Timeframe(1, "d")

_SECOND_MS = 1000
_MINUTE_MS = 60_000

# Pages begin small, for who asks for little, and double up to what numpy takes in one stride.
_MOST_SESSIONS = 16
_MOST_MINUTES = 512


class History:
    """The bars and trades of one listing under one seed."""

    def __init__(self, listing: Listing, calendar: Calendar, seed: int) -> None:
        self._listing = listing
        self._calendar = calendar
        self._days = Days(listing, calendar, seed)
        name = f"{seed}/{listing.symbol}"
        self._to_minutes = Subdivision(f"{name}/minute", slot_ms=_MINUTE_MS, profile=calendar.profile)
        self._to_seconds = Subdivision(
            f"{name}/second", slot_ms=_SECOND_MS, profile=np.ones(60, dtype=np.int64)
        )
        self._busy = Noise(f"{name}/busy")
        self._tape = Tape(f"{name}/trade")
        self._first = int(np.searchsorted(calendar.opens, listing.first_ms))
        # What streams and forming bars look at again and again: the session and the minute of now.
        self._minutes_of = lru_cache(maxsize=4)(self._compute_minutes_of)
        self._trades_of = lru_cache(maxsize=16)(self._compute_trades_of)

    def bars(self, timeframe: Timeframe, since_ms: int, before_ms: int, limit: int) -> list[Bar]:
        """The first `limit` bars of SECOND, MINUTE or DAY that open in `[since_ms, before_ms)`, each as
        it is when it has closed."""
        pages = self._pages(timeframe, since_ms, before_ms)
        parts: list[Candles] = []
        missing = limit
        for page in pages:
            parts.append(page.rows(0, missing))
            missing -= len(parts[-1])
            if missing == 0:
                break
        return self._listing.bars(Candles.join(parts)) if parts else []

    def bars_at(
        self, now_ms: int, timeframe: Timeframe, since_ms: int, before_ms: int, limit: int
    ) -> list[Bar]:
        """`bars` as they are to be seen at `now_ms`: the last may be forming, and none opens later."""
        current_ms = timeframe.floor(now_ms)
        bars = self.bars(timeframe, since_ms, min(before_ms, current_ms), limit)
        if len(bars) < limit and since_ms <= current_ms < before_ms:
            forming = self.forming(timeframe, now_ms)
            bars += [] if forming is None else [forming]
        return bars

    def forming(self, timeframe: Timeframe, now_ms: int) -> Bar | None:
        """The bar whose interval holds `now_ms`, out of the trades up to and at it; None without one."""
        start_ms, minute_ms = timeframe.floor(now_ms), MINUTE.floor(now_ms)
        session = self._session_at(now_ms)
        if session < self._first:
            return None
        minutes = self._minutes_of(session)
        parts = [minutes.between(start_ms, minute_ms)]
        index = int(np.searchsorted(minutes.t, minute_ms))
        if index < len(minutes) and minutes.t[index] == minute_ms:
            trades = self._trades_of(session, index)
            parts.append(trades.between(max(start_ms, minute_ms), now_ms + 1).as_candles())
        pieces = Candles.join(parts)
        return self._listing.bars(pieces.folded(start_ms))[0] if len(pieces) else None

    def ticks(self, since_ms: int, before_ms: int, limit: int) -> list[Tick]:
        """The first `limit` trades in `[since_ms, before_ms)`."""
        ticks: list[Tick] = []
        for trades in self._tape_from(since_ms):
            part = trades.between(since_ms, before_ms)
            ticks += self._listing.ticks(part)[: limit - len(ticks)]
            if len(ticks) == limit or int(trades.t[-1]) >= before_ms:
                break
        return ticks

    def closed(self, since_ms: int, before_ms: int) -> list[TimeRange]:
        """What of `[since_ms, before_ms)` lies between two sessions."""
        return self._calendar.closed(since_ms, before_ms)

    def next_trade_ms(self, since_ms: int) -> int | None:
        """When the first trade at or after `since_ms` happens; None if there is none any more."""
        for trades in self._tape_from(since_ms):
            index = int(np.searchsorted(trades.t, since_ms))
            if index < len(trades):
                return int(trades.t[index])
        return None

    def _session_at(self, t_ms: int) -> int:
        """The number of the last session that has opened at `t_ms`."""
        return int(np.searchsorted(self._calendar.opens, t_ms, side="right")) - 1

    def _pages(self, timeframe: Timeframe, since_ms: int, before_ms: int) -> Iterator[Candles]:
        if timeframe == DAY:
            first, stop = np.searchsorted(self._calendar.days, (since_ms, before_ms)).tolist()
            yield self._days.candles(np.arange(max(first, self._first), max(stop, self._first)))
        elif timeframe == MINUTE:
            yield from self._minute_pages(since_ms, before_ms)
        else:
            yield from self._second_pages(since_ms, before_ms)

    def _minute_pages(self, since_ms: int, before_ms: int) -> Iterator[Candles]:
        session = max(int(np.searchsorted(self._calendar.closes, since_ms, side="right")), self._first)
        stop = int(np.searchsorted(self._calendar.opens, before_ms))
        if session < stop:
            yield self._minutes_of(session).between(since_ms, before_ms)
        count = 2
        session += 1
        while session < stop:
            sessions = np.arange(session, min(session + count, stop))
            yield self._minutes(sessions).between(since_ms, before_ms)
            session += count
            count = min(2 * count, _MOST_SESSIONS)

    def _second_pages(self, since_ms: int, before_ms: int) -> Iterator[Candles]:
        count = 1
        for minutes in self._minute_pages(MINUTE.floor(since_ms), before_ms):
            start = 0
            while start < len(minutes):
                yield self._seconds(minutes.rows(start, start + count)).between(since_ms, before_ms)
                start += count
                count = min(2 * count, _MOST_MINUTES)

    def _tape_from(self, since_ms: int) -> Iterator[Trades]:
        """The trades of every minute that ends after `since_ms`, a minute at a time."""
        first = max(self._session_at(since_ms), self._first)
        for session in range(first, len(self._calendar.opens)):
            minutes = self._minutes_of(session)
            start = int(np.searchsorted(minutes.t, since_ms - _MINUTE_MS, side="right"))
            for index in range(start, len(minutes)):
                yield self._trades_of(session, index)

    def _minutes(self, sessions: IntArray) -> Candles:
        days = self._days
        return self._to_minutes.children(
            days.candles(sessions),
            self._calendar.opens[sessions],
            days.minutes_traded(sessions),
            days.shut(sessions),
        )

    def _seconds(self, minutes: Candles) -> Candles:
        chance = 0.5 + self._busy.share(minutes.t // _MINUTE_MS)
        count = np.rint(60 * self._listing.busy_seconds * chance).astype(np.int64)
        return self._to_seconds.children(minutes, minutes.t, count)

    def _compute_minutes_of(self, session: int) -> Candles:
        return self._minutes(np.array([session]))

    def _compute_trades_of(self, session: int, index: int) -> Trades:
        minute = self._minutes_of(session).rows(index, index + 1)
        return self._tape.trades(self._seconds(minute))
