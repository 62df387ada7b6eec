"""The contract of an allowance: every kind, command by command, against one plain model."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import TypeAlias
from uuid import uuid4

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from marketd.domain.rate_limit import RateLimit
from marketd.metrics import Metrics
from marketd.ratelimit import Allowance, LocalAllowance, RateLimiter, SharedAllowances
from marketd.ratelimit.base import WAKE_US

Command: TypeAlias = tuple[str, int, bool]
LIMITS = st.builds(
    RateLimit,
    requests=st.integers(1, 50),
    per_ms=st.sampled_from([1, 2, 5, 20, 100]),
    burst=st.integers(1, 20),
)
COMMANDS = st.lists(
    st.one_of(
        st.tuples(st.just("take"), st.integers(1, 25), st.booleans()),
        st.tuples(st.just("block"), st.integers(1, 3_000), st.just(False)),  # microseconds
        st.tuples(st.just("pause"), st.integers(1, 2_000), st.just(False)),
    ),
    min_size=1,
    max_size=60,
)


class Model:
    """An account by definition: what was spent and when it comes back, one unit an interval."""

    def __init__(self, limit: RateLimit) -> None:
        self._limit = limit
        self._debt_us = 0  # of time that has to pass until all is there again
        self._at_us = 0
        self._blocked_us = self._wanted_us = 0

    def take(self, cost: int, at_us: int, *, background: bool) -> int:
        """The wait that is told, 0 if the cost is spent."""
        unit_us = self._limit.interval_us
        self._debt_us = max(0, self._debt_us - (at_us - self._at_us))
        self._at_us = at_us
        room = self._limit.burst - 1 if background else self._limit.burst
        over_us = self._debt_us + cost * unit_us - max(room, cost) * unit_us
        waits = [over_us, self._blocked_us - at_us]
        if background:
            waits.append(self._wanted_us - at_us)
        wait_us = max(0, *waits)
        if not wait_us:
            self._debt_us += cost * unit_us
        elif not background:
            self._wanted_us = max(self._wanted_us, at_us + wait_us + WAKE_US)
        return wait_us

    def block(self, pause_us: int, *, no_earlier_us: int) -> None:
        self._blocked_us = max(self._blocked_us, no_earlier_us + pause_us)


class ManualTime:
    """Microseconds that pass when told to."""

    def __init__(self) -> None:
        self.now_us = 1_000_000

    def __call__(self) -> int:
        return self.now_us


@settings(max_examples=200)
@given(LIMITS, COMMANDS)
def test_a_local_allowance_is_the_model(limit: RateLimit, commands: list[Command]) -> None:
    async def run() -> None:
        time, model = ManualTime(), Model(limit)
        allowance = LocalAllowance(time)
        for what, amount, background in commands:
            if what == "pause":
                time.now_us += amount
            elif what == "block":
                model.block(amount, no_earlier_us=time.now_us)
                await allowance.block(amount)
            else:
                wanted = model.take(amount, time.now_us, background=background)
                taken = await allowance.take(limit, amount, background=background)
                assert taken == (wanted, time.now_us)

    asyncio.run(run())


def test_a_shared_allowance_is_the_model(redis_url: str) -> None:
    """Time is Redis' own here, and passes as it likes: the model is told what it was."""

    @settings(max_examples=60)
    @given(LIMITS, st.lists(st.tuples(st.integers(1, 25), st.booleans()), min_size=1, max_size=80))
    def check(limit: RateLimit, takes: list[tuple[int, bool]]) -> None:
        async def run() -> None:
            shared = SharedAllowances(redis_url, Metrics())
            try:
                model, allowance = Model(limit), shared.allowance(uuid4().hex)
                for cost, background in takes:
                    wait_us, at_us = await allowance.take(limit, cost, background=background)
                    assert wait_us == model.take(cost, at_us, background=background)
            finally:
                await shared.close()

        asyncio.run(run())

    check()


Make: TypeAlias = Callable[[], Allowance]


@pytest.fixture(params=["local", "redis"])
async def make(request: pytest.FixtureRequest) -> AsyncIterator[Make]:
    """Makes new allowances of one kind."""
    if request.param == "local":
        yield LocalAllowance
        return
    metrics = Metrics()
    shared = SharedAllowances(request.getfixturevalue("redis_url"), metrics)
    yield lambda: shared.allowance(uuid4().hex)
    assert metrics.redis_up._value.get() == 1
    await shared.close()


async def spend(
    limiter: RateLimiter, limit: RateLimit, for_s: float, *, background: bool = False
) -> list[float]:
    """The times at which one caller that always wants more gets its turn."""
    loop = asyncio.get_running_loop()
    end_s, turns = loop.time() + for_s, []
    while loop.time() < end_s:
        await limiter.acquire(limit, deadline_s=None, background=background)
        turns.append(loop.time())
    return turns


def most_in_any(turns: list[float], window_s: float) -> int:
    return max(sum(start_s <= turn_s < start_s + window_s for turn_s in turns) for start_s in turns)


async def test_one_caller_uses_nearly_all_of_it_and_never_more(make: Make) -> None:
    # A burst of a tenth of a second: what a busy machine wakes too late for is made up for.
    limit = RateLimit(requests=50, per_ms=1_000, burst=5)
    # Once in three seconds it is not even busier.
    for _ in range(3):
        turns = await spend(RateLimiter(make()), limit, 1.0)
        assert len(turns) <= 50 + limit.burst + 1
        for window_s in (0.05, 0.2, 0.5):
            assert most_in_any(turns, window_s) <= limit.burst + window_s * 50 + 1
        if len(turns) >= 0.95 * 50:
            return
    pytest.fail(f"{len(turns)} turns of 50")


async def test_a_block_stops_everybody_for_as_long_as_it_says(make: Make) -> None:
    limit = RateLimit(requests=1_000, per_ms=1_000, burst=100)
    limiter, loop = RateLimiter(make()), asyncio.get_running_loop()
    await limiter.acquire(limit, deadline_s=None)
    begun_s = loop.time()
    await limiter.penalise(0.2)
    await limiter.penalise(0.1)  # a shorter one does not shorten it
    await asyncio.gather(
        *(limiter.acquire(limit, deadline_s=None, background=number % 2 > 0) for number in range(10))
    )
    assert 0.2 <= loop.time() - begun_s < 0.6


async def test_background_work_gets_what_interactive_callers_leave(make: Make) -> None:
    limit = RateLimit(requests=50, per_ms=1_000, burst=2)
    limiter = RateLimiter(make())
    background, interactive = await asyncio.gather(
        spend(limiter, limit, 0.6, background=True), spend(limiter, limit, 0.4)
    )
    end_s = interactive[-1]
    assert len(interactive) >= 0.9 * 20
    assert sum(turn_s < end_s for turn_s in background) <= 3
    assert sum(turn_s >= end_s for turn_s in background) >= 0.5 * 10


async def test_a_cost_above_the_burst_waits_for_all_of_it(make: Make) -> None:
    limit = RateLimit(requests=100, per_ms=1_000, burst=2)
    allowance = make()
    assert (await allowance.take(limit, 5, background=False)).wait_us == 0
    wait_us, _ = await allowance.take(limit, 5, background=False)
    assert 40_000 < wait_us <= 50_000
