"""A Redis that may be away: it is asked while it answers, and nobody waits for it else."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from typing import TypeVar

from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from marketd.metrics import Metrics
from marketd.supervisor import raise_if_cancelled

log = logging.getLogger(__name__)

T = TypeVar("T")

_LOOK_AGAIN_S = 1.0


class RedisLink:
    """Asks one Redis, each time for `timeout_s` at the most.

    `away` and `back` say in the log what it means that it is away, and that it is back.
    """

    def __init__(
        self, url: str, metrics: Metrics, *, timeout_s: float = 1.0, away: str, back: str
    ) -> None:
        self.redis = Redis.from_url(
            url,
            socket_timeout=timeout_s / 2,
            socket_connect_timeout=timeout_s / 2,
            # Once more at once, for a kept connection that the server has closed meanwhile.
            retry=Retry(NoBackoff(), 1),
        )
        self._timeout_s = timeout_s
        self._says = away, back
        self._up = metrics.redis_up
        self._is_away = False
        self._look_again_s = 0.0

    async def ask(self, work: Callable[[Redis], Awaitable[T]]) -> T | None:
        """What `work` gives; None while Redis is away."""
        loop = asyncio.get_running_loop()
        if self._is_away and loop.time() < self._look_again_s:
            return None
        # Only one looks whether it is back; the others go on without it.
        self._look_again_s = loop.time() + self._timeout_s
        away, back = self._says
        try:
            async with asyncio.timeout(self._timeout_s):
                answer = await work(self.redis)
        except (RedisError, OSError) as error:
            if not self._is_away:
                log.warning("redis away reason=%s; %s", kind_of(error), away)
            self._is_away = True
            self._look_again_s = loop.time() + _LOOK_AGAIN_S
            self._up.set(0)
            return None
        finally:
            raise_if_cancelled()
        if self._is_away:
            log.info("redis back; %s", back)
        self._is_away = False
        self._up.set(1)
        return answer

    async def close(self) -> None:
        """Gives the connections back."""
        await self.redis.aclose()


def kind_of(error: Exception) -> str:
    """What went wrong on the way to Redis, in a word: the text of an error may hold the address."""
    cause = error.__cause__
    return type(cause if isinstance(cause, Exception) else error).__name__
