"""Randomness that is looked up, not drawn: the number at a place depends on its name and place alone.

Whatever range is asked for, in whatever order and on whatever machine, the same places hold the same
numbers. Hence integers throughout, and of floating point only the operations that IEEE 754 rounds
exactly: `np.exp` and its like may differ in the last bit between processors and versions.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from marketd.domain.resample import FloatArray
from marketd.domain.timeframe import IntArray

BitArray: TypeAlias = npt.NDArray[np.uint64]

# The standard deviation of `Noise.bell`: that of four uniform numbers below 2**16 added up.
BELL = 37837.0

_STRIDE = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
_LANE = np.uint64(0xFFFF)


class Noise:
    """An endless row of random numbers, one at every whole number; `name` tells rows apart."""

    def __init__(self, name: str) -> None:
        digest = blake2b(name.encode(), digest_size=8).digest()
        self._key = np.uint64(int.from_bytes(digest, "little"))

    def bits(self, places: IntArray) -> BitArray:
        """64 random bits at each place: the output function of SplitMix64 (Steele, Lea, Flood 2014)."""
        z = places.astype(np.uint64) * _STRIDE + self._key
        z ^= z >> np.uint64(30)
        z *= _MIX_1
        z ^= z >> np.uint64(27)
        z *= _MIX_2
        z ^= z >> np.uint64(31)
        return z

    def share(self, places: IntArray) -> FloatArray:
        """Uniform in [0, 1)."""
        return (self.bits(places) >> np.uint64(11)).astype(np.float64) * 2.0**-53

    def bell(self, places: IntArray) -> IntArray:
        """Whole numbers of a bell curve around 0 with the standard deviation `BELL`."""
        bits = self.bits(places)
        return lane(bits, 0) + lane(bits, 1) + lane(bits, 2) + lane(bits, 3) - 131_070

    def wander(self, places: IntArray, octaves: int) -> FloatArray:
        """A random walk over the places, each of its values computed directly.

        Steps have about unit variance; over more than `2**octaves` places it wanders no further. It
        is value noise: octave k joins a random height at every 2**k-th place by straight lines.
        """
        total = np.zeros(places.shape)
        for octave in range(octaves):
            period = 1 << octave
            cell = places >> octave
            left = self.bell(cell * 64 + octave) / BELL
            right = self.bell((cell + 1) * 64 + octave) / BELL
            within = (places - cell * period) / period
            total += (left + (right - left) * within) * np.sqrt(period / 4)
        return total


def lane(bits: BitArray, index: int) -> IntArray:
    """The 16 bits at `index` (0 to 3) as a whole number below 65536."""
    return ((bits >> np.uint64(16 * index)) & _LANE).astype(np.int64)


def grow(x: npt.NDArray[np.floating[Any]]) -> FloatArray:
    """About e**x for |x| < 20, made of multiplications alone: (1 + x/1024)**1024."""
    power: FloatArray = 1.0 + x / 1024
    for _ in range(10):
        power = power * power
    return power
