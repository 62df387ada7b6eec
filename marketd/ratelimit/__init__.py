"""Rate limits: each key's allowance, and the line of those who wait for it."""

from __future__ import annotations

from marketd.metrics import Metrics
from marketd.ratelimit.base import Allowance, RateLimiter
from marketd.ratelimit.local import LocalAllowance
from marketd.ratelimit.redis import SharedAllowances

__all__ = ["Allowance", "LocalAllowance", "RateLimiter", "RateLimiters", "SharedAllowances"]


class RateLimiters:
    """The limiter of every key, shared through Redis where there is a URL of one."""

    def __init__(self, redis_url: str, metrics: Metrics) -> None:
        self._shared = SharedAllowances(redis_url, metrics) if redis_url else None
        self._by_key: dict[str, RateLimiter] = {}

    def limiter(self, key: str) -> RateLimiter:
        """The one of `key`, which holds no secret: providers that share the key share the limiter."""
        if key not in self._by_key:
            allowance = self._shared.allowance(key) if self._shared else LocalAllowance()
            self._by_key[key] = RateLimiter(allowance)
        return self._by_key[key]

    async def close(self) -> None:
        """Gives connections back."""
        if self._shared is not None:
            await self._shared.close()
