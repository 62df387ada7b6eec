"""From bars to the finer bars that they are made of.

A parent's interval is cut into slots, of which some are active and become its children. The children
start at its open, end at its close, stay within its range, touch both ends of it, and share out its
volume; so folding them gives the parent back exactly. Every step is worked out for many parents at
once, in tables of one row a parent and one column a slot.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from marketd.domain.resample import FloatArray
from marketd.domain.timeframe import IntArray
from marketd.plugins.sim.candles import BoolArray, Candles
from marketd.plugins.sim.noise import BELL, BitArray, Noise, lane

# What every bar needs at the least: an open, a high, a low and a close, one lot each.
LOTS_A_BAR = 4

# The range of a walk in standard deviations of its end, about.
_RANGE = 1.6
# How far of the way to the parent's high and low the children close; the rest is a wick's.
_REACH = 0.875


class _Paths(NamedTuple):
    """Per slot the child's close (in an inactive slot, the last one), and per slot the usual size of
    a step in price steps."""

    close: IntArray
    step: FloatArray


class _Knot(NamedTuple):
    """A time (0 the start of a parent, 1 its end) and the price to be met then, each one a row."""

    time: FloatArray
    price: FloatArray


class Subdivision:
    """One way to cut: slots of `slot_ms`, as many as `profile` has values.

    `profile` is the relative volume to expect in each slot; its square root, the relative movement.
    """

    def __init__(self, name: str, *, slot_ms: int, profile: IntArray) -> None:
        self._slot_ms = slot_ms
        self._profile = profile
        self._pace = np.rint(4 * np.sqrt(profile)).astype(np.int64)
        self._choice = Noise(f"{name}/choice")
        self._step = Noise(f"{name}/step")
        self._turns = Noise(f"{name}/turns")
        self._detail = Noise(f"{name}/detail")

    def children(
        self, parents: Candles, starts_ms: IntArray, count: IntArray, shut: BoolArray | None = None
    ) -> Candles:
        """The children of all `parents` (of at least LOTS_A_BAR lots each), ascending.

        `starts_ms` is where each parent's first slot begins, a multiple of `slot_ms`; `count` how many
        children it should have: it gets at least one, and no more than its volume and open slots
        allow. `shut` (parents × slots) are the slots that cannot be active, never all of a row.
        """
        places = starts_ms[:, None] // self._slot_ms + np.arange(len(self._profile))
        active = self._active(parents, places, count, shut)
        steps = np.where(active, self._step.bell(places), 0)
        bits = self._detail.bits(places)
        paths = self._paths(parents, places, active, steps)
        open_, high, low = _bodies(parents, active, paths, bits)
        volume = self._volumes(parents, active, steps, lane(bits, 2))
        table = (places * self._slot_ms, open_, high, low, paths.close, volume)
        return Candles(*(column[active] for column in table))

    def _active(
        self, parents: Candles, places: IntArray, count: IntArray, shut: BoolArray | None
    ) -> BoolArray:
        """The slots whose random numbers are the smallest of their row."""
        slots = len(self._profile)
        # Numbers of a row differ, since each ends in that of its slot.
        below = np.uint64((1 << slots.bit_length()) - 1)
        number = self._choice.bits(places) & ~below | np.arange(slots, dtype=np.uint64)
        most = np.minimum(parents.volume // LOTS_A_BAR, slots)
        if shut is not None:
            number[shut] = np.iinfo(np.uint64).max
            most = np.minimum(most, slots - shut.sum(axis=1))
        last = np.maximum(np.minimum(count, most), 1)[:, None] - 1
        active: BoolArray = number <= np.take_along_axis(np.sort(number, axis=1), last, axis=1)
        return active

    def _paths(self, parents: Candles, places: IntArray, active: BoolArray, steps: IntArray) -> _Paths:
        """Random walks, bent to go from the open by way of high and low to the close."""
        open_, high, low, close = _as_rows(parents)
        top, bottom = np.maximum(open_, close), np.minimum(open_, close)
        ceiling, floor = top + _REACH * (high - top), bottom - _REACH * (bottom - low)
        # Time runs as fast as there is movement, and ends at 1 with the last active slot.
        elapsed = np.cumsum(active * self._pace**2, axis=1)
        time = elapsed / elapsed[:, -1:]
        scale = (high - low) / (_RANGE * BELL * np.sqrt(elapsed[:, -1:]))
        walk = scale * np.cumsum(steps * self._pace, axis=1)
        route = _route(open_, ceiling, floor, close, self._turns.bits(places[:, :1]))
        path = walk + _bend(walk, time, open_, route)
        # What leaves the range is mirrored back into it, so that nowhere is the walk calmer than usual.
        path = ceiling - np.abs(ceiling - path)
        path = floor + np.abs(path - floor)
        path = np.clip(np.rint(path).astype(np.int64), low, high)
        return _Paths(path, scale * BELL * self._pace)

    def _volumes(
        self, parents: Candles, active: BoolArray, steps: IntArray, chance: IntArray
    ) -> IntArray:
        """What each child needs, and of the rest a share: more where the price moves more."""
        weight = active * self._profile * ((chance >> 8) + 64) * ((np.abs(steps) >> 11) + 16)
        so_far = np.cumsum(weight, axis=1)
        spare = (parents.volume - LOTS_A_BAR * active.sum(axis=1))[:, None]
        dealt: IntArray = spare * so_far // so_far[:, -1:]
        volume: IntArray = np.diff(dealt, axis=1, prepend=0) + LOTS_A_BAR
        return volume


def _bodies(
    parents: Candles, active: BoolArray, paths: _Paths, bits: BitArray
) -> tuple[IntArray, IntArray, IntArray]:
    """The children's open, high and low."""
    first, highest, lowest, _ = _as_rows(parents)
    close = paths.close
    # Mostly a child opens where the one before it closed, sometimes a price step beside.
    before = np.concatenate((first, close[:, :-1]), axis=1)
    chance = lane(bits, 3) & 7
    jitter = (chance == 1).astype(np.int64) - (chance == 0)
    is_first = np.cumsum(active, axis=1) == 1
    open_ = np.where(is_first, before, np.clip(before + jitter, lowest, highest))
    top, bottom = np.maximum(open_, close), np.minimum(open_, close)
    high = np.minimum(top + _wicks(paths.step, lane(bits, 0)), highest)
    low = np.maximum(bottom - _wicks(paths.step, lane(bits, 1)), lowest)
    # The child that came nearest to the parent's high or low is the one that made it.
    _put(high, np.where(active, top, lowest - 1).argmax(axis=1), highest)
    _put(low, np.where(active, bottom, highest + 1).argmin(axis=1), lowest)
    return open_, high, low


def _as_rows(parents: Candles) -> tuple[IntArray, IntArray, IntArray, IntArray]:
    return parents.open[:, None], parents.high[:, None], parents.low[:, None], parents.close[:, None]


def _route(
    open_: IntArray, ceiling: FloatArray, floor: FloatArray, close: IntArray, bits: BitArray
) -> list[_Knot]:
    """Where the path is at which time: open, ceiling, floor, close; or to the floor first."""
    # Mostly the way that is shorter.
    floor_first = (close > open_) ^ (lane(bits, 3) % 4 == 0)
    first, second = np.where(floor_first, floor, ceiling), np.where(floor_first, ceiling, floor)
    height = ceiling - floor
    # Longer legs take longer, by and large, and even the shortest takes some time.
    legs = [
        (np.abs(end - start) + height / 24 + 1) * (0.25 + lane(bits, index) / 65536)
        for index, (start, end) in enumerate(((open_, first), (first, second), (second, close)))
    ]
    total = legs[0] + legs[1] + legs[2]
    return [
        _Knot(legs[0] / total, first),
        _Knot((legs[0] + legs[1]) / total, second),
        _Knot(np.ones(total.shape), close.astype(np.float64)),
    ]


def _bend(walk: FloatArray, time: FloatArray, open_: IntArray, route: list[_Knot]) -> FloatArray:
    """What to add to walks from 0 for them to begin at `open_` and meet each knot: straight lines."""
    begin, offset = np.zeros(open_.shape), open_.astype(np.float64)
    bend = offset + np.zeros(walk.shape)
    for knot in route:
        # Met in the last slot before it; where there is none, at the very start.
        slot = (time <= knot.time).sum(axis=1, keepdims=True) - 1
        end = np.where(slot < 0, 0.0, np.take_along_axis(time, slot, axis=1))
        end_offset = knot.price - np.where(slot < 0, 0.0, np.take_along_axis(walk, slot, axis=1))
        slope = (end_offset - offset) / np.where(end > begin, end - begin, 1.0)
        bend = np.where(time > begin, offset + slope * (time - begin), bend)
        begin, offset = end, end_offset
    return bend


def _wicks(step: FloatArray, chance: IntArray) -> IntArray:
    """Short ones mostly: two fifths of a step on average."""
    share = chance / 65536
    return np.rint(1.2 * step * share * share).astype(np.int64)


def _put(table: IntArray, columns: IntArray, values: IntArray) -> None:
    np.put_along_axis(table, columns[:, None], values, axis=1)
