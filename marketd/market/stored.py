"""Base bars of the store, by way of the caches in front of it: what they prove is not read again."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Mapping, Sequence
from itertools import chain, groupby
from typing import NamedTuple, TypeAlias

from marketd.cache import BarCache, Bucket, BucketKey, Claim
from marketd.cache.bucket import BUCKET_BARS, buckets_in
from marketd.domain import packing
from marketd.domain.bar import Bar
from marketd.domain.coverage import Covered, Reason, proven
from marketd.domain.instrument import Series
from marketd.domain.timerange import TimeRange, subtract
from marketd.storage import Change, Storage

STORAGE = "storage"
# A bucket is kept once it was missed twice within about so many: what is read once is not worth it.
_MISSES = 2_048
# How many buckets are looked for at once.
_WINDOW = 64


class StoredRead(NamedTuple):
    """What Storage.read gives, and how many of the bars came from which cache, or from the store.

    What a cache proves is said to be `data`, whatever the proof was.
    """

    bars: list[Bar]
    coverage: list[Covered]
    sources: Mapping[str, int]


class _Piece(NamedTuple):
    """A part of what is read: in a bucket, come from `source`, or still in the store."""

    span: TimeRange
    bucket: Bucket | None
    source: str


_Found: TypeAlias = dict[BucketKey, tuple[Bucket, str]]


class StoredReads:
    """Reads bars from the nearest of `caches`, nearest first, that has them, the rest from the store.

    Only what the store has proven is ever cached, so the tail never is. A bucket is kept whole: read
    in one step, together with its proof.
    """

    def __init__(self, storage: Storage, caches: Sequence[BarCache] = ()) -> None:
        self._storage = storage
        self._caches = caches
        self._changes = 0
        self._missed: OrderedDict[BucketKey, None] = OrderedDict()
        if caches:
            storage.listen(self._changed)

    async def read(
        self, series: Series, span: TimeRange, *, limit: int, newest: bool = False
    ) -> StoredRead:
        """See Storage.read: the same bars, all of one instant."""
        if not self._caches or span.is_empty or not limit:
            return await self._from_storage(series, span, limit, newest)
        changes = self._changes
        parts: list[bytes | list[Bar]] = []
        coverage: list[Covered] = []
        sources: Counter[str] = Counter()
        missing, left = limit, span
        while missing > 0 and not left.is_empty:
            window, found = await self._window(series, left, missing, newest)
            for piece in _pieces(window, found, newest=newest):
                if piece.bucket is None:
                    stored = await self._storage.read(series, piece.span, limit=missing, newest=newest)
                    coverage += stored.coverage
                    parts.append(stored.bars)
                    missing -= len(stored.bars)
                    sources[STORAGE] += len(stored.bars)
                else:
                    packed = packing.cut(piece.bucket.packed, piece.span)
                    most = missing * packing.SIZE
                    packed = packed[-most:] if newest else packed[:most]
                    count = len(packed) // packing.SIZE
                    coverage.append(Covered(*piece.span, Reason.DATA))
                    parts.append(packed)
                    missing -= count
                    sources[piece.source] += count
                if missing <= 0:
                    break
            left = (
                TimeRange(left.start_ms, window.start_ms)
                if newest
                else TimeRange(window.end_ms, left.end_ms)
            )
        if self._changes != changes and len(parts) > 1:
            # Some parts are perhaps older than the change, and some newer.
            return await self._from_storage(series, span, limit, newest)
        bars = _joined(parts[::-1] if newest else parts)
        return StoredRead(bars, sorted(coverage), sources)

    async def _from_storage(
        self, series: Series, span: TimeRange, limit: int, newest: bool
    ) -> StoredRead:
        stored = await self._storage.read(series, span, limit=limit, newest=newest)
        return StoredRead(stored.bars, stored.coverage, {STORAGE: len(stored.bars)})

    async def _window(
        self, series: Series, left: TimeRange, missing: int, newest: bool
    ) -> tuple[TimeRange, _Found]:
        """What to read next of `left`, and the buckets that are there for it: all of `left` if none."""
        numbers = buckets_in(series, left)
        count = min(missing // BUCKET_BARS + 2, _WINDOW)
        numbers = numbers[-count:] if newest else numbers[:count]
        keys = [BucketKey(series, number) for number in numbers]
        found = await self._find(keys)
        if not found:
            return left, found
        return TimeRange(keys[0].span.start_ms, keys[-1].span.end_ms).clip(left), found

    async def _find(self, keys: Sequence[BucketKey]) -> _Found:
        """The buckets that are in a cache, or are from now on."""
        found: _Found = {}
        claims: list[tuple[BarCache, Claim]] = []
        wanted: list[BucketKey] = []
        for cache in self._caches:
            here = await cache.find(keys)
            for nearer, claim in claims:
                await nearer.keep({key: here[key] for key in wanted if key in here}, claim)
            found |= {key: (bucket, cache.name) for key, bucket in here.items()}
            keys = [key for key in keys if key not in here]
            if not keys:
                return found
            wanted = [key for key in wanted if key not in here] if claims else self._missed_again(keys)
            claims.append((cache, await cache.claim(wanted)))
        if wanted:
            buckets = await self._read_buckets(wanted)
            for cache, claim in claims:
                await cache.keep(buckets, claim)
            found |= {key: (bucket, STORAGE) for key, bucket in buckets.items()}
        return found

    def _missed_again(self, keys: Sequence[BucketKey]) -> list[BucketKey]:
        """Those that were missed before, a little while ago; all of them are now."""
        again = [key for key in keys if key in self._missed]
        for key in keys:
            self._missed[key] = None
            self._missed.move_to_end(key)
        while len(self._missed) > _MISSES:
            self._missed.popitem(last=False)
        return again

    async def _read_buckets(self, keys: Sequence[BucketKey]) -> dict[BucketKey, Bucket]:
        """Whole buckets from the store, neighbours in one step; without those that prove nothing."""
        buckets: dict[BucketKey, Bucket] = {}
        for _, numbered in groupby(enumerate(keys), lambda one: one[1].number - one[0]):
            run = [key for _, key in numbered]
            span = TimeRange(run[0].span.start_ms, run[-1].span.end_ms)
            stored = await self._storage.read(run[0].series, span, limit=len(run) * BUCKET_BARS)
            shown = proven(stored.coverage)
            for key in run:
                pieces = [piece for one in shown if not (piece := one.clip(key.span)).is_empty]
                if pieces:
                    buckets[key] = Bucket.of(stored.bars, pieces)
        return buckets

    def _changed(self, change: Change | None) -> None:
        self._changes += 1
        for cache in self._caches:
            if change is None:
                cache.forget_all()
            else:
                cache.forget(change.series, change.span)


def _pieces(window: TimeRange, found: _Found, *, newest: bool) -> list[_Piece]:
    """`window` from its wanted end on, cut into what the buckets prove and what they do not."""
    near = [
        _Piece(piece, bucket, source)
        for bucket, source in found.values()
        for one in bucket.proven
        if not (piece := one.clip(window)).is_empty
    ]
    near.sort(key=lambda piece: piece.span)
    far = subtract(window, [piece.span for piece in near])
    return sorted([*near, *(_Piece(hole, None, STORAGE) for hole in far)], reverse=newest, key=_span)


def _span(piece: _Piece) -> TimeRange:
    return piece.span


def _joined(parts: Sequence[bytes | list[Bar]]) -> list[Bar]:
    """The bars of all parts, packed or not, one after the other."""
    unpacked = [packing.unpack(part) if isinstance(part, bytes) else part for part in parts]
    return unpacked[0] if len(unpacked) == 1 else list(chain.from_iterable(unpacked))
