"""The bottom level: the trades that bars of a second are made of."""

from __future__ import annotations

import numpy as np

from marketd.domain.timeframe import IntArray
from marketd.plugins.sim.candles import BoolArray, Candles, Trades
from marketd.plugins.sim.noise import Noise, lane

_SECOND_MS = 1000
_MOST = 8  # trades a second


class Tape:
    """Trades of seconds: one row a second and one column a trade, as in `subdivide`."""

    def __init__(self, name: str) -> None:
        self._count = Noise(f"{name}/count")
        self._time = Noise(f"{name}/time")
        self._price = Noise(f"{name}/price")
        self._detail = Noise(f"{name}/detail")

    def trades(self, seconds: Candles) -> Trades:
        """The trades of all `seconds`, whose fold gives each of them back."""
        count = self._counts(seconds)
        nth = np.arange(_MOST)
        places = seconds.t[:, None] // _SECOND_MS * _MOST + nth
        happens = nth < count[:, None]
        price = self._prices(seconds, places, count)
        bits = self._detail.bits(places)
        size = _sizes(seconds.volume, happens, lane(bits, 0))
        # An uptick was bought and a downtick sold; of an unchanged price nobody can tell.
        change = np.diff(price, axis=1, prepend=seconds.open[:, None])
        bought = np.where(change == 0, lane(bits, 1) % 2 == 0, change > 0)
        table = self._times(seconds, places, happens), price, size
        t, price, size = (column[happens] for column in table)
        return Trades(t, price, size, bought[happens])

    def _counts(self, seconds: Candles) -> IntArray:
        """A trade for each of open, high, low and close where they differ, and perhaps more."""
        inner = _has_high(seconds).astype(np.int64) + _has_low(seconds)
        least = np.where((inner == 0) & (seconds.open == seconds.close), 1, 2 + inner)
        share = self._count.share(seconds.t // _SECOND_MS)
        wanted = 1 + (_MOST * share * share).astype(np.int64)
        return np.maximum(np.minimum(wanted, seconds.volume), least)

    def _times(self, seconds: Candles, places: IntArray, happens: BoolArray) -> IntArray:
        """Ascending and all different: sorted numbers, each moved on by how many come before it."""
        offset = lane(self._time.bits(places), 0) % (_SECOND_MS - _MOST + 1)
        ascending = np.sort(np.where(happens, offset, _SECOND_MS), axis=1)
        times: IntArray = seconds.t[:, None] + ascending + np.arange(_MOST)
        return times

    def _prices(self, seconds: Candles, places: IntArray, count: IntArray) -> IntArray:
        """From open to close with noise; high and low, where they lie beyond, at places of their own."""
        open_, close = seconds.open[:, None], seconds.close[:, None]
        high, low = seconds.high[:, None], seconds.low[:, None]
        nth, last = np.arange(_MOST), (count - 1)[:, None]
        bits = self._price.bits(places)
        noise = (high - low) * (lane(bits, 0) / 65536 - 0.5)
        line = open_ + (close - open_) * np.minimum(nth / np.maximum(last, 1), 1.0)
        price = np.clip(np.rint(line + noise).astype(np.int64), low, high)
        price = np.where(nth == 0, open_, np.where(nth >= last, close, price))
        # The trades between the first and the last: at least two if both high and low are theirs.
        inner = np.maximum(count - 2, 1)
        of_high = lane(bits[:, 0], 1) % inner
        of_low = (of_high + 1 + lane(bits[:, 0], 2) % np.maximum(inner - 1, 1)) % inner
        price = np.where(_has_high(seconds)[:, None] & (nth == of_high[:, None] + 1), high, price)
        return np.where(_has_low(seconds)[:, None] & (nth == of_low[:, None] + 1), low, price)


def _has_high(seconds: Candles) -> BoolArray:
    """True where the high is neither the open nor the close."""
    return seconds.high > np.maximum(seconds.open, seconds.close)


def _has_low(seconds: Candles) -> BoolArray:
    return seconds.low < np.minimum(seconds.open, seconds.close)


def _sizes(volume: IntArray, happens: BoolArray, chance: IntArray) -> IntArray:
    """A lot for each trade, and of the rest a share."""
    so_far = np.cumsum(happens * (chance + 1), axis=1)
    spare = (volume - happens.sum(axis=1))[:, None]
    sizes: IntArray = np.diff(spare * so_far // so_far[:, -1:], axis=1, prepend=0) + 1
    return sizes
