"""The allowance of a key that several processes share, kept in Redis.

One script decides, on Redis' own clock, so that the processes need not agree on the time. While Redis
is away each process keeps to its share by itself, and goes back when Redis does.
"""

from __future__ import annotations

from collections.abc import Sequence
from uuid import uuid4

from redis.asyncio import Redis

from marketd.domain.rate_limit import RateLimit
from marketd.metrics import Metrics
from marketd.ratelimit.base import WAKE_US, Allowance, Taken
from marketd.ratelimit.local import LocalAllowance
from marketd.redis_link import RedisLink

# A process that has not asked for this long has no share any more.
_PEER_US = 60_000_000

# The same steps as LocalAllowance; a number is written with %.0f, which is exact up to 2^53.
_SCRIPT = """
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local interval, burst, cost = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])
local background, pause, wake = ARGV[4] == '1', tonumber(ARGV[5]), tonumber(ARGV[6])
local kept = redis.call('HMGET', KEYS[1], 'tat', 'blocked', 'wanted')
local tat, blocked, wanted = tonumber(kept[1]) or 0, tonumber(kept[2]) or 0, tonumber(kept[3]) or 0
local wait = 0
if pause > 0 then
  blocked = math.max(blocked, now + pause)
else
  local room = math.max(cost, background and burst - 1 or burst)
  local after = math.max(tat, now) + cost * interval
  local free = math.max(after - room * interval, blocked)
  if background then free = math.max(free, wanted) end
  if free > now then
    wait = free - now
    if not background then wanted = math.max(wanted, free + wake) end
  else
    tat = after
  end
end
local function text(number) return string.format('%.0f', number) end
redis.call('HSET', KEYS[1], 'tat', text(tat), 'blocked', text(blocked), 'wanted', text(wanted))
local idle = math.max(tat, blocked, wanted, now) - now
redis.call('PEXPIRE', KEYS[1], text(math.ceil(idle / 1000) + 1000))
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', text(now - tonumber(ARGV[8])))
redis.call('ZADD', KEYS[2], text(now), ARGV[7])
redis.call('PEXPIRE', KEYS[2], text(math.ceil(tonumber(ARGV[8]) / 1000)))
return {wait, now, redis.call('ZCARD', KEYS[2])}
"""


class SharedAllowances:
    """The allowances in one Redis."""

    def __init__(self, url: str, metrics: Metrics) -> None:
        self._link = RedisLink(
            url, metrics, away="rate limits are kept by share", back="rate limits are shared again"
        )
        self._script = self._link.redis.register_script(_SCRIPT)
        self._node = uuid4().hex

    def allowance(self, key: str) -> RedisAllowance:
        """That of one key."""
        return RedisAllowance(self, key)

    async def close(self) -> None:
        """Gives the connections back."""
        await self._link.close()

    async def run(self, key: str, numbers: Sequence[int]) -> list[int] | None:
        """What the script says; None while Redis is away."""
        # The braces keep both keys in one slot of a cluster.
        keys = [f"marketd:rate:{{{key}}}", f"marketd:rate:{{{key}}}:users"]

        async def run(_: Redis) -> list[int]:
            answer: list[int] = await self._script(keys, [*numbers, self._node, _PEER_US])
            return answer

        return await self._link.ask(run)


class RedisAllowance(Allowance):
    """One key's, in Redis; by this process's share alone while Redis is away."""

    def __init__(self, shared: SharedAllowances, key: str) -> None:
        self._shared = shared
        self._key = key
        self._alone = LocalAllowance()
        self._is_alone = False
        self._users = 1

    async def take(self, limit: RateLimit, cost: int, *, background: bool) -> Taken:
        numbers = (limit.interval_us, limit.burst, cost, int(background), 0, WAKE_US)
        answer = await self._shared.run(self._key, numbers)
        if answer is not None:
            self._is_alone = False
            wait_us, at_us, self._users = answer
            return Taken(wait_us, at_us)
        share = limit.shared_by(self._users)
        if not self._is_alone:
            # What the burst is now only Redis knew: it has been spent, to be sure.
            self._is_alone = True
            await self._alone.take(share, share.burst, background=False)
        return await self._alone.take(share, cost, background=background)

    async def block(self, pause_us: int) -> None:
        # Here, too, in case that Redis goes away before the pause is over.
        await self._alone.block(pause_us)
        await self._shared.run(self._key, (0, 0, 0, 0, max(1, pause_us), WAKE_US))
