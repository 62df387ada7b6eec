"""The top level: what one session comes to, for any session directly."""

from __future__ import annotations

import numpy as np

from marketd.domain.resample import FloatArray
from marketd.domain.timeframe import DAY_MS, IntArray
from marketd.plugins.sim.calendar import Calendar
from marketd.plugins.sim.candles import BoolArray, Candles
from marketd.plugins.sim.listings import Listing
from marketd.plugins.sim.noise import BELL, Noise, grow
from marketd.plugins.sim.subdivide import LOTS_A_BAR

_WALK_OCTAVES = 12
_MOOD_OCTAVES = 6
_MOOD_STEP = 0.1
_LOWEST_PRICE = 100  # price steps
_MOST_LOTS = 1 << 29  # so that sharing them out stays within 64 bits

_HALT_EVERY = 8
_HALT_MIN = 20
_HALT_SPREAD_MIN = 11


class Days:
    """The daily candles of one listing, by the number of the session in its market's calendar."""

    def __init__(self, listing: Listing, calendar: Calendar, seed: int) -> None:
        self._listing = listing
        self._calendar = calendar
        name = f"{seed}/{listing.symbol}/day"
        self._walk = Noise(f"{name}/walk")
        self._mood = Noise(f"{name}/mood")
        self._gap = Noise(f"{name}/gap")
        self._above = Noise(f"{name}/above")
        self._below = Noise(f"{name}/below")
        self._volume = Noise(f"{name}/volume")
        self._quiet = Noise(f"{name}/quiet")
        self._halt = Noise(f"{name}/halt")

    def candles(self, sessions: IntArray) -> Candles:
        """One candle a session, `t` the start of its UTC day."""
        listing = self._listing
        mood = grow(_MOOD_STEP * self._mood.wander(sessions, _MOOD_OCTAVES))
        close = self._closes(sessions)
        gap = listing.gap * self._gap.bell(sessions) / BELL
        open_ = _at_least(self._closes(sessions - 1) * grow(gap), _LOWEST_PRICE)
        top, bottom = np.maximum(open_, close), np.minimum(open_, close)
        # A day's walk of this volatility leaves its open and close behind by about this much.
        wick = 0.5 * listing.volatility * mood / BELL
        high = top + np.rint(top * wick * np.abs(self._above.bell(sessions))).astype(np.int64)
        low = bottom - np.rint(bottom * wick * np.abs(self._below.bell(sessions))).astype(np.int64)
        return Candles(
            self._calendar.opens[sessions] // DAY_MS * DAY_MS,
            open_,
            high,
            np.maximum(low, 1),
            close,
            self._lots(sessions, mood, np.abs(close - open_) / (open_ * listing.volatility)),
        )

    def minutes_traded(self, sessions: IntArray) -> IntArray:
        """In how many of its minutes each session trades, as far as its volume allows."""
        minutes = self._calendar.minutes(sessions)
        share = (1.0 - self._listing.busy_minutes) * (0.5 + self._quiet.share(sessions))
        return minutes - np.rint(minutes * share).astype(np.int64)

    def shut(self, sessions: IntArray) -> BoolArray:
        """Which minutes of each session see no trade at all: after an early close, and in a halt.

        One row a session and one column a minute of a full session.
        """
        length = self._calendar.minutes(sessions)[:, None]
        minute = np.arange(len(self._calendar.profile))[None, :]
        shut: BoolArray = minute >= length
        if self._listing.halts:
            bits = self._halt.bits(sessions).astype(np.int64)[:, None]
            lasts = _HALT_MIN + (bits >> 8) % _HALT_SPREAD_MIN
            begins = 10 + (bits >> 16) % (length - lasts - 20)
            shut |= (bits % _HALT_EVERY == 0) & (minute >= begins) & (minute < begins + lasts)
        return shut

    def _closes(self, sessions: IntArray) -> IntArray:
        listing = self._listing
        walk = listing.volatility * self._walk.wander(sessions, _WALK_OCTAVES)
        return _at_least(listing.price * 10**listing.digits * grow(walk), _LOWEST_PRICE)

    def _lots(self, sessions: IntArray, mood: FloatArray, moved: FloatArray) -> IntArray:
        """Days that move much, in moods that move much, trade much."""
        chance = grow(0.2 * self._volume.bell(sessions) / BELL)
        share = self._calendar.minutes(sessions) / len(self._calendar.profile)
        lots = self._listing.day_volume * mood * chance * share * (0.6 + 0.5 * moved)
        return np.minimum(_at_least(lots, LOTS_A_BAR), _MOST_LOTS)


def _at_least(values: FloatArray, least: int) -> IntArray:
    return np.maximum(np.rint(values), least).astype(np.int64)
