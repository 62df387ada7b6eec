"""The line in front of an allowance: fair, bounded, cancellable, and no longer than a deadline."""

from __future__ import annotations

import asyncio

import pytest
from hasty import run_hastily

from marketd.domain.errors import ProviderRateLimited
from marketd.domain.rate_limit import RateLimit
from marketd.metrics import Metrics
from marketd.ratelimit import LocalAllowance, RateLimiter, RateLimiters
from marketd.ratelimit import base as line

ONE_A_SECOND = RateLimit(requests=1, per_ms=1_000)


def limiter() -> RateLimiter:
    """One on the loop's own time, which a hasty loop skips."""
    loop = asyncio.get_running_loop()
    return RateLimiter(LocalAllowance(lambda: round(loop.time() * 1e6)))


class Turns:
    """Callers in line, and the order in which they got their turn."""

    def __init__(self) -> None:
        self.limiter = limiter()
        self.order: list[str] = []

    async def take(self, name: str, *, cost: int = 1, background: bool = False) -> None:
        await self.limiter.acquire(ONE_A_SECOND, cost, deadline_s=None, background=background)
        self.order.append(name)

    def begin(self, name: str, *, background: bool = False) -> asyncio.Task[None]:
        return asyncio.create_task(self.take(name, background=background))


def test_first_come_first_served_and_background_work_last() -> None:
    async def run() -> None:
        turns = Turns()
        names = ["b1", "i1", "b2", "i2", "i3", "b3"]
        await asyncio.gather(*(turns.begin(name, background=name[0] == "b") for name in names))
        # b1 was alone when it came.
        assert turns.order == ["b1", "i1", "i2", "i3", "b2", "b3"]

    run_hastily(run())


def test_whoever_leaves_the_line_costs_nobody_a_turn() -> None:
    async def run() -> None:
        loop = asyncio.get_running_loop()
        turns = Turns()
        begun_s = loop.time()
        tasks = [turns.begin(f"i{number}") for number in range(6)]
        tasks += [turns.begin("b", background=True)]
        await asyncio.sleep(0.5)
        for number in (1, 3, 4):  # the first in line among them
            tasks[number].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        assert turns.order == ["i0", "i2", "i5", "b"]
        assert 2.9 < loop.time() - begun_s < 3.5

    run_hastily(run())


def test_who_would_wait_beyond_the_deadline_is_told_at_once_how_long() -> None:
    async def run() -> None:
        loop = asyncio.get_running_loop()
        turns = Turns()
        tasks = [turns.begin(f"i{number}") for number in range(5)]  # the last at 4 s
        await asyncio.sleep(0.5)
        begun_s = loop.time()
        with pytest.raises(ProviderRateLimited) as refused:
            await turns.limiter.acquire(ONE_A_SECOND, deadline_s=begun_s + 3)
        assert loop.time() - begun_s < 0.1
        assert 3 < (refused.value.retry_after_s or 0) < 5
        await turns.limiter.acquire(ONE_A_SECOND, deadline_s=begun_s + 6)
        assert loop.time() - begun_s > 4
        await asyncio.gather(*tasks)

    run_hastily(run())


def test_a_deadline_that_has_passed_is_no_matter_of_the_rate_limit_while_there_is_room() -> None:
    async def run() -> None:
        await limiter().acquire(ONE_A_SECOND, deadline_s=asyncio.get_running_loop().time() - 1)

    run_hastily(run())


def test_a_refused_caller_has_spent_nothing() -> None:
    async def run() -> None:
        loop = asyncio.get_running_loop()
        turns = Turns()
        await turns.take("first")
        begun_s = loop.time()
        for _ in range(5):
            with pytest.raises(ProviderRateLimited):
                await turns.limiter.acquire(ONE_A_SECOND, deadline_s=begun_s + 0.1)
        await turns.take("second")
        assert 0.9 < loop.time() - begun_s < 1.2

    run_hastily(run())


def test_a_penalty_beyond_the_deadline_turns_everybody_away_at_once() -> None:
    async def run() -> None:
        loop = asyncio.get_running_loop()
        one = limiter()
        await one.penalise(60)
        with pytest.raises(ProviderRateLimited) as refused:
            await one.acquire(ONE_A_SECOND, deadline_s=loop.time() + 10)
        assert 59 < (refused.value.retry_after_s or 0) <= 60
        begun_s = loop.time()
        await one.acquire(ONE_A_SECOND, deadline_s=None, background=True)
        assert loop.time() - begun_s > 59

    run_hastily(run())


def test_the_line_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(line, "MOST_WAITING", 3)

    async def run() -> None:
        turns = Turns()
        await turns.take("first")
        tasks = [turns.begin(f"i{number}") for number in range(3)]
        await asyncio.sleep(0)
        with pytest.raises(ProviderRateLimited):
            await turns.take("one too many")
        await asyncio.gather(*tasks)

    run_hastily(run())


def test_a_rate_limit_of_nothing_is_a_mistake() -> None:
    for wrong in ((0, 1, 1), (1, 0, 1), (1, 1, 0)):
        with pytest.raises(ValueError, match="one at the least"):
            RateLimit(*wrong)


async def test_a_key_has_one_limiter() -> None:
    limiters = RateLimiters("", Metrics())
    assert limiters.limiter("a") is limiters.limiter("a")
    assert limiters.limiter("a") is not limiters.limiter("b")
