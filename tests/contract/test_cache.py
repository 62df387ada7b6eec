"""What every cache of bars promises."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from uuid import uuid4

import pytest
from pages import page
from scripted import INSTRUMENT, MINUTE, START, M

from marketd.cache import BarCache, Bucket, BucketKey, MemoryCache, bucket_of
from marketd.cache.redis import RedisCache
from marketd.domain.instrument import Instrument, Series
from marketd.domain.packing import unpack
from marketd.domain.timerange import TimeRange
from marketd.metrics import Metrics

LENGTH = 240
SERIES = Series(INSTRUMENT, MINUTE)
FIRST = bucket_of(SERIES, START)
KEYS = [BucketKey(SERIES, FIRST.number + n) for n in range(4)]
# What a provider may call a thing: with the separators of keys, patterns and commands in it.
HOSTILE = [
    Series(Instrument("a", "b", "c:d"), MINUTE),
    Series(Instrument("a", "b:c", "d"), MINUTE),
    Series(Instrument("a", "b", "c"), MINUTE, "d"),
    Series(Instrument("a", "b", "{x}*?\r\nDEL \x00/%3A\u2028é"), MINUTE),
    Series(Instrument("a", "b", "x" * 5_000), MINUTE),
]


@pytest.fixture(params=["memory", "redis"])
async def cache(request: pytest.FixtureRequest) -> AsyncIterator[BarCache]:
    cache: BarCache = MemoryCache(10_000_000)
    if request.param == "redis":
        cache = RedisCache(request.getfixturevalue("redis_url"), uuid4().hex, Metrics())
        await cache.find(KEYS)  # names the epoch
    yield cache
    await cache.close()


def bucket(key: BucketKey, close: float = 100.0) -> Bucket:
    minute = (key.span.start_ms - START) // M
    return Bucket.of(page(minute, minute + LENGTH, close), [key.span])


async def put(cache: BarCache, *keys: BucketKey, close: float = 100.0) -> None:
    claim = await cache.claim(keys)
    await cache.keep({key: bucket(key, close) for key in keys}, claim)


async def closes(cache: BarCache, *keys: BucketKey) -> dict[BucketKey, object]:
    found = await cache.find(keys)
    return {key: unpack(one.packed)[0][4] for key, one in found.items()}


async def test_what_is_kept_is_found_as_it_was(cache: BarCache) -> None:
    await put(cache, *KEYS[:2])
    found = await cache.find(KEYS)
    assert list(found) == KEYS[:2]
    for key, one in found.items():
        assert one.to_bytes() == bucket(key).to_bytes()


async def test_a_change_takes_away_the_buckets_that_it_touches_and_no_other(cache: BarCache) -> None:
    await put(cache, *KEYS)
    cache.forget(SERIES, TimeRange(KEYS[2].span.end_ms - 1, KEYS[2].span.end_ms))
    assert list(await closes(cache, *KEYS)) == [KEYS[0], KEYS[1], KEYS[3]]
    cache.forget(SERIES, TimeRange(START - 1_000 * M, KEYS[0].span.start_ms + 1))
    assert list(await closes(cache, *KEYS)) == [KEYS[1], KEYS[3]]
    cache.forget_all()
    assert await closes(cache, *KEYS) == {}


async def test_what_was_read_before_a_change_is_not_kept_after_it(cache: BarCache) -> None:
    claim = await cache.claim(KEYS[:1])
    stale = bucket(KEYS[0])
    cache.forget(SERIES, KEYS[0].span)
    await cache.keep({KEYS[0]: stale}, claim)
    assert await closes(cache, KEYS[0]) == {}
    claim = await cache.claim(KEYS[:1])
    cache.forget_all()
    await cache.keep({KEYS[0]: stale}, claim)
    assert await closes(cache, KEYS[0]) == {}


async def test_what_is_read_after_a_change_is_kept(cache: BarCache) -> None:
    await put(cache, KEYS[0])
    cache.forget(SERIES, KEYS[0].span)
    assert await closes(cache, KEYS[0]) == {}
    async with asyncio.timeout(30):
        # A cache in another process may still be at work on the change.
        while await closes(cache, KEYS[0]) != {KEYS[0]: 7.0}:
            await put(cache, KEYS[0], close=7.0)


@pytest.mark.parametrize("name", range(len(HOSTILE)))
async def test_whatever_its_name_a_series_is_its_own(cache: BarCache, name: int) -> None:
    keys = [BucketKey(series, FIRST.number) for series in HOSTILE]
    for number, key in enumerate(keys):
        await put(cache, key, close=float(number))
    assert await closes(cache, *keys) == {key: float(number) for number, key in enumerate(keys)}
    cache.forget(HOSTILE[name], FIRST.span)
    assert list(await closes(cache, *keys)) == [key for key in keys if key.series != HOSTILE[name]]


async def test_nothing_asked_is_nothing_found(cache: BarCache) -> None:
    assert await cache.find([]) == {}
    await cache.keep({}, await cache.claim([]))
