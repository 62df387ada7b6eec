"""The guard around a plugin's calls: their turn, their bounds, their retries, and the health they show.

Whatever a plugin raises, its caller gets a MarketdError.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import NamedTuple, TypeVar

from marketd.config import UpstreamConfig
from marketd.domain.errors import MarketdError, ProviderFailed, ProviderRateLimited, ProviderTimeout
from marketd.domain.rate_limit import RateLimit
from marketd.metrics import Metrics
from marketd.plugins.instance import Instance
from marketd.supervisor import raise_if_cancelled

log = logging.getLogger(__name__)

T = TypeVar("T")

_FIRST_BACKOFF_S = 0.2
_LONGEST_BACKOFF_S = 5.0
# What a provider without a rate limit may be asked. It can still ask for patience.
_UNLIMITED = RateLimit(requests=1_000_000, per_ms=1_000, burst=1_000_000)


class Turn(NamedTuple):
    """How a call waits for its turn under the rate limit.

    Until `deadline_s` (the loop's time; None: as long as a call may take). `background` work waits as
    long as it takes, and gets what others leave.
    """

    deadline_s: float | None = None
    background: bool = False


NOW = Turn()
BACKGROUND = Turn(background=True)


class SetUpAnew(ProviderFailed):
    """The plugin was given up before the call was made: it is for the one that takes its place."""


@dataclass(frozen=True, slots=True)
class Health:
    """How a provider is: `idle` (nobody has needed it), `opening`, `up` or `down`, with the reason."""

    state: str
    message: str = ""


class Guard:
    """Lets the calls of one provider through, and keeps its health."""

    def __init__(self, name: str, *, upstream: UpstreamConfig, metrics: Metrics) -> None:
        self.health = Health("idle")
        self._name = name
        self._upstream = upstream
        self._metrics = metrics
        metrics.provider_up.labels(name).set(0)

    async def call(
        self, instance: Instance, call: Callable[[], Awaitable[T]], *, cost: int, turn: Turn = NOW
    ) -> T:
        """One call of an open plugin, in its turn, bounded and retried. Raises SetUpAnew."""
        attempt = 0
        while True:
            # The turn comes last: a call that then waited for a free place would come too late.
            async with AsyncExitStack() as places:
                if turn.background:
                    await places.enter_async_context(instance.background_calls)
                await places.enter_async_context(instance.calls)
                await self.take_turn(instance, cost, turn)
                if instance.is_spent:
                    raise SetUpAnew(f"{self._name} was set up anew.")
                try:
                    with instance.used():
                        answer = await self.bounded(call)
                except ProviderFailed as error:
                    failure = error
                else:
                    self.succeeded()
                    return answer
            self._metrics.provider_errors.labels(self._name, failure.code).inc()
            pause_s = random.uniform(0, min(_LONGEST_BACKOFF_S, _FIRST_BACKOFF_S * 2**attempt))  # noqa: S311 - jitter
            is_last = not failure.transient or attempt >= self._upstream.retries
            if isinstance(failure, ProviderRateLimited):
                # It is the key that has to wait, whoever uses it; the next turn comes after that.
                self._metrics.rate_limit_pauses.labels(self._name).inc()
                await instance.limiter.penalise(max(failure.retry_after_s or 0.0, pause_s))
            elif not is_last:
                await asyncio.sleep(pause_s)
            if is_last:
                self.failed(failure)
                raise failure
            attempt += 1

    async def take_turn(self, instance: Instance, cost: int, turn: Turn) -> None:
        """Returns when the rate limit has room; ProviderRateLimited if that would be too late."""
        loop = asyncio.get_running_loop()
        started_s = loop.time()
        deadline_s = turn.deadline_s
        if deadline_s is None and not turn.background:
            deadline_s = started_s + self._upstream.timeout / 1000
        limit = instance.rate_limit or _UNLIMITED
        try:
            await instance.limiter.acquire(
                limit, cost, deadline_s=deadline_s, background=turn.background
            )
        except ProviderRateLimited:
            self._metrics.rate_limit_refused.labels(self._name).inc()
            raise
        self._metrics.rate_limit_seconds.labels(self._name).observe(loop.time() - started_s)

    async def bounded(self, call: Callable[[], Awaitable[T]]) -> T:
        """The plugin's answer, or a MarketdError: whatever else it raises becomes ProviderFailed.

        A plugin that takes no notice of being cancelled does not keep its caller from it.
        """
        timeout_s = self._upstream.timeout / 1000
        try:
            async with asyncio.timeout(timeout_s):
                return await call()
        except MarketdError:
            raise
        except TimeoutError:
            raise ProviderTimeout(f"{self._name} did not answer within {timeout_s:g} s.") from None
        except Exception as error:
            raise self.foreign(error) from error
        finally:
            raise_if_cancelled()

    def foreign(self, error: Exception) -> ProviderFailed:
        """What is told of an error of the plugin's own.

        Only its kind: its text may hold a URL with a key in it.
        """
        return ProviderFailed(
            f"{self._name} failed with {type(error).__name__}.", transient=isinstance(error, OSError)
        )

    def failed(self, error: MarketdError) -> None:
        """The provider is down, which is logged once."""
        if self.health.state != "down":
            log.warning("provider down provider=%s reason=%s", self._name, error.message)
        self.health = Health("down", error.message)
        self._metrics.provider_up.labels(self._name).set(0)

    def succeeded(self) -> None:
        """The provider is up, which is logged once."""
        if self.health.state == "up":
            return
        log.info("provider up provider=%s", self._name)
        self.health = Health("up")
        self._metrics.provider_up.labels(self._name).set(1)

    def rests(self) -> None:
        """The provider is not open, and nothing is wrong with it."""
        self.health = Health("idle")
        self._metrics.provider_up.labels(self._name).set(0)

    def opens(self) -> None:
        """The provider is being opened; one that is down stays so until that has succeeded."""
        if self.health.state == "idle":
            self.health = Health("opening")

    def forget(self) -> None:
        """Takes the provider out of the metrics: it is gone."""
        self._metrics.provider_up.remove(self._name)
