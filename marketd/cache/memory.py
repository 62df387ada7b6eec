"""Buckets in this process, the least used given up beyond a number of bytes."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping, Sequence

from marketd.cache.base import BarCache, Claim
from marketd.cache.bucket import Bucket, BucketKey, buckets_in
from marketd.domain.instrument import Series
from marketd.domain.timerange import TimeRange


class MemoryCache(BarCache):
    """Takes `most_bytes` at the most."""

    name = "memory"

    def __init__(self, most_bytes: int) -> None:
        # Grows with every change: what was read before one may be out of date.
        self._changes = 0
        self._most_bytes = most_bytes
        self._bytes = 0
        self._buckets: OrderedDict[BucketKey, Bucket] = OrderedDict()
        self._of_series: dict[Series, set[int]] = {}

    async def find(self, keys: Sequence[BucketKey]) -> dict[BucketKey, Bucket]:
        found = {key: self._buckets[key] for key in keys if key in self._buckets}
        for key in found:
            self._buckets.move_to_end(key)
        return found

    async def claim(self, keys: Sequence[BucketKey]) -> Claim:
        return Claim(self._changes)

    async def keep(self, buckets: Mapping[BucketKey, Bucket], claim: Claim) -> None:
        if claim.changes != self._changes:
            return
        for key, bucket in buckets.items():
            self._drop(key)
            self._buckets[key] = bucket
            self._of_series.setdefault(key.series, set()).add(key.number)
            self._bytes += bucket.size
        while self._bytes > self._most_bytes:
            self._drop(next(iter(self._buckets)))

    def forget(self, series: Series, span: TimeRange) -> None:
        self._changes += 1
        kept, changed = self._of_series.get(series, set()), buckets_in(series, span)
        fewer = changed if len(changed) < len(kept) else kept
        for number in [one for one in fewer if one in kept and one in changed]:
            self._drop(BucketKey(series, number))

    def forget_all(self) -> None:
        self._changes += 1
        self._bytes = 0
        self._buckets.clear()
        self._of_series.clear()

    async def close(self) -> None:
        self.forget_all()

    def _drop(self, key: BucketKey) -> None:
        bucket = self._buckets.pop(key, None)
        if bucket is None:
            return
        self._bytes -= bucket.size
        numbers = self._of_series[key.series]
        numbers.discard(key.number)
        if not numbers:
            del self._of_series[key.series]
