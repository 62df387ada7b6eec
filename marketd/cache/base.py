"""The contract of a cache of bars. `tests/contract` holds every kind to it, sentence by sentence.

A cache may lose anything at any time, and never fails: what goes wrong is a bucket that is not there.
It never gives a bucket from before a change that it has been told of.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from marketd.cache.bucket import Bucket, BucketKey
from marketd.domain.instrument import Series
from marketd.domain.timerange import TimeRange


class Claim(NamedTuple):
    """The right to keep what is read from now on. It ends when what was claimed changes.

    `changes` is how many changes had been told by then; `lease` is the mark of whoever claims.
    """

    changes: int
    lease: bytes = b""


class BarCache(ABC):
    """Keeps buckets, for as long as there is room."""

    name: str
    """The word for it in metrics."""

    @abstractmethod
    async def find(self, keys: Sequence[BucketKey]) -> dict[BucketKey, Bucket]:
        """Those of the buckets that are here."""

    @abstractmethod
    async def claim(self, keys: Sequence[BucketKey]) -> Claim:
        """To be called before buckets that are to be kept are read from the store."""

    @abstractmethod
    async def keep(self, buckets: Mapping[BucketKey, Bucket], claim: Claim) -> None:
        """Keeps `buckets`, read after `claim` was made of them, but for those that changed since."""

    @abstractmethod
    def forget(self, series: Series, span: TimeRange) -> None:
        """Bars of `series` that open in `span` have changed: nothing from before is found any more."""

    @abstractmethod
    def forget_all(self) -> None:
        """Any bar may have changed."""

    @abstractmethod
    async def close(self) -> None:
        """Gives back what it holds of other programs."""
