"""The memory that a cache takes is bounded, and what is used stays."""

from __future__ import annotations

from scripted import INSTRUMENT, MINUTE, START, bar

from marketd.cache import Bucket, BucketKey, MemoryCache, bucket_of
from marketd.domain.instrument import Series

FIRST = bucket_of(Series(INSTRUMENT, MINUTE), START)
BUCKET = Bucket.of([bar(minute) for minute in range(240)], [FIRST.span])


def key(number: int) -> BucketKey:
    return BucketKey(FIRST.series, FIRST.number + number)


async def keep(cache: MemoryCache, number: int) -> None:
    await cache.keep({key(number): BUCKET}, await cache.claim([key(number)]))


async def test_what_was_not_used_for_longest_gives_way() -> None:
    cache = MemoryCache(3 * BUCKET.size)
    for number in (0, 1, 2, 2, 2):
        await keep(cache, number)
    await cache.find([key(0)])
    await keep(cache, 3)
    assert list(await cache.find([key(number) for number in range(4)])) == [key(0), key(2), key(3)]


async def test_what_is_larger_than_all_the_room_is_not_kept() -> None:
    cache = MemoryCache(BUCKET.size - 1)
    await keep(cache, 0)
    assert await cache.find([key(0)]) == {}


async def test_what_is_forgotten_makes_room() -> None:
    cache = MemoryCache(2 * BUCKET.size)
    for number in (0, 1):
        await keep(cache, number)
    cache.forget(FIRST.series, key(0).span)
    await keep(cache, 2)
    assert list(await cache.find([key(number) for number in range(3)])) == [key(1), key(2)]
