"""Buckets in Redis, for all nodes of one database.

Redis may lose anything, bring back what it had long ago, or be away just when a node has something to
take out of it. Four things keep what is found from being older than a change that was heard of:

- Whoever means to keep a bucket first puts a lease of its own in its place, then reads the store; the
  bucket takes the place of that lease or is not kept. So what was read before a change never comes
  after it: every node that hears of the change removes whatever is there, leases too.
- Until a node has removed what it heard of, it does not look for it.
- A node that could not remove something, or has only just begun and cannot know, names a new epoch.
  Of an older one nothing is taken.
- Nor is anything that another run of the server was given: it may have been restored from a disk.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from urllib.parse import quote
from uuid import uuid4

from redis.asyncio import Redis

from marketd.cache.base import BarCache, Claim
from marketd.cache.bucket import Bucket, BucketKey, buckets_in
from marketd.domain.instrument import Series
from marketd.domain.timerange import TimeRange
from marketd.metrics import Metrics
from marketd.redis_link import RedisLink

_TIMEOUT_S = 0.25
_KEPT_MS = 86_400_000
# A read of the store that takes longer keeps nothing.
_LEASE_MS = 30_000
# Of more buckets at once that have changed, a new epoch makes an end.
_MOST_CHANGED = 2_000
_SWEEP = 500
_STAMP = 32
_KEEP = """
if redis.call('GET', KEYS[1]) == ARGV[1] then redis.call('SET', KEYS[1], ARGV[2], 'PX', ARGV[3]) end
"""


class RedisCache(BarCache):
    """What the nodes of one database share, which `space` tells from any other database."""

    name = "redis"

    def __init__(self, url: str, space: str, metrics: Metrics) -> None:
        self._link = RedisLink(
            url,
            metrics,
            timeout_s=_TIMEOUT_S,
            away="bars are cached by each process alone",
            back="cached bars are shared again",
        )
        self._keep = self._link.redis.register_script(_KEEP)
        # The number is the version of what is kept.
        self._prefix = f"marketd:{space}:bars:1:"
        self._changes = 0
        # What changed, and is still to be removed: the number of its last change.
        self._changed: dict[BucketKey, int] = {}
        self._sweeping: asyncio.Task[None] | None = None
        # How often it has lost track of what is to be removed, and how often that was made up for.
        self._lost, self._made_up = 1, 0
        # The server's run and the epoch, as last seen.
        self._stamp = b""

    async def find(self, keys: Sequence[BucketKey]) -> dict[BucketKey, Bucket]:
        keys = [key for key in keys if key not in self._changed]
        if not keys or not await self._is_on_track():
            return {}
        names = [self._name(key) for key in keys]
        changes, lost = self._changes, self._lost

        async def read(redis: Redis) -> tuple[bytes, list[bytes | None]]:
            async with redis.pipeline() as pipeline:
                pipeline.info("server")
                pipeline.get(self._prefix)
                pipeline.mget(names)
                server, epoch, values = await pipeline.execute()
            run: str = server["run_id"]
            return run[:16].encode() + epoch if epoch else b"", values

        answer = await self._link.ask(read)
        if answer is None:
            return {}
        self._stamp, values = answer
        if not self._stamp:
            # It was emptied. Whoever comes first names the epoch.
            await self._name_epoch(if_none=True)
        if (self._changes, self._lost) != (changes, lost):
            return {}
        found = zip(keys, (_bucket(value, self._stamp) for value in values), strict=True)
        return {key: bucket for key, bucket in found if bucket is not None}

    async def claim(self, keys: Sequence[BucketKey]) -> Claim:
        nothing = Claim(self._changes)
        if not keys or not self._stamp or self._lost != self._made_up:
            return nothing
        removed = {key: self._changed[key] for key in keys if key in self._changed}
        claim = Claim(self._changes, b"L" + self._stamp + uuid4().bytes)

        async def put(redis: Redis) -> bool:
            async with redis.pipeline(transaction=False) as pipeline:
                for key in keys:
                    pipeline.set(self._name(key), claim.lease, px=_LEASE_MS)
                # A Redis without room for more refuses them, and is there all the same.
                done = await pipeline.execute(raise_on_error=False)
            return all(one is True for one in done)

        if not await self._link.ask(put):
            return nothing
        # What was there is gone by that.
        self._is_removed(removed)
        return claim

    async def keep(self, buckets: Mapping[BucketKey, Bucket], claim: Claim) -> None:
        if not buckets or not claim.lease or claim.changes != self._changes:
            return
        head = b"B" + claim.lease[1 : 1 + _STAMP]

        async def replace(redis: Redis) -> bool:
            async with redis.pipeline(transaction=False) as pipeline:
                for key, bucket in buckets.items():
                    values = (claim.lease, head + bucket.to_bytes(), _KEPT_MS)
                    await self._keep([self._name(key)], values, client=pipeline)
                await pipeline.execute(raise_on_error=False)
            return True

        await self._link.ask(replace)

    def forget(self, series: Series, span: TimeRange) -> None:
        self._changes += 1
        numbers = buckets_in(series, span)
        if len(self._changed) + len(numbers) > _MOST_CHANGED:
            self._lose_track()
            return
        for number in numbers:
            self._changed[BucketKey(series, number)] = self._changes
        if self._sweeping is None or self._sweeping.done():
            self._sweeping = asyncio.get_running_loop().create_task(self._sweep())

    def forget_all(self) -> None:
        self._changes += 1
        self._lose_track()

    async def close(self) -> None:
        if self._sweeping is not None:
            await asyncio.wait([self._sweeping])
        await self._link.close()

    async def _sweep(self) -> None:
        """Removes what has changed, until there is no more of it."""
        while self._changed:
            batch = dict(list(self._changed.items())[:_SWEEP])
            if not await self._remove([self._name(key) for key in batch]):
                self._lose_track()
                return
            self._is_removed(batch)

    def _is_removed(self, changed: Mapping[BucketKey, int]) -> None:
        """What has changed once more meanwhile is still to be removed."""
        for key, change in changed.items():
            if self._changed.get(key) == change:
                del self._changed[key]

    async def _remove(self, names: Sequence[str]) -> bool:
        async def unlink(redis: Redis) -> bool:
            await redis.unlink(*names)
            return True

        return await self._link.ask(unlink) is not None

    def _lose_track(self) -> None:
        self._lost += 1
        self._changed.clear()

    async def _is_on_track(self) -> bool:
        """Whether what is found may be taken; makes it so where it is not, if Redis answers."""
        if self._lost == self._made_up:
            return True
        lost = self._lost
        if await self._name_epoch():
            self._made_up = lost
        return self._lost == self._made_up

    async def _name_epoch(self, *, if_none: bool = False) -> bool:
        epoch = uuid4().hex[:16]

        async def name(redis: Redis) -> bool:
            await redis.set(self._prefix, epoch, nx=if_none)
            return True

        return await self._link.ask(name) is not None

    def _name(self, key: BucketKey) -> str:
        what, series = key.series.instrument, key.series
        parts = (what.market, what.provider, what.symbol, str(series.timeframe), series.variant)
        quoted = (quote(part, safe="", errors="surrogatepass") for part in parts)
        return f"{self._prefix}{':'.join(quoted)}:{key.number}"


def _bucket(value: bytes | None, stamp: bytes) -> Bucket | None:
    """The bucket that was kept under `stamp`; None for what was not, a lease among it."""
    head = b"B" + stamp
    if value is None or not value.startswith(head):
        return None
    try:
        return Bucket.from_bytes(value[len(head) :])
    except ValueError:
        # Somebody else has been at it.
        return None
