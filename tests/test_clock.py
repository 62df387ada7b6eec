"""Clocks: nobody is woken too early, and nobody is left asleep."""

from __future__ import annotations

import asyncio
import time

import pytest
from hasty import run_hastily
from hypothesis import given
from hypothesis import strategies as st

from marketd.clock import Clock, ManualClock, ScaledClock, SystemClock

NOW = 1_700_000_000_000


async def asleep(clock: Clock, until_ms: int) -> asyncio.Task[int]:
    """A task that sleeps until then and tells when it woke."""

    async def sleep() -> int:
        await clock.sleep_until(until_ms)
        return clock.now_ms()

    task = asyncio.create_task(sleep())
    await settled()
    return task


async def settled() -> None:
    """Lets whoever can run, run."""
    for _ in range(5):
        await asyncio.sleep(0)


# The system's


def test_the_system_clock_tells_epoch_milliseconds() -> None:
    before_s = time.time()
    now_ms = SystemClock().now_ms()
    assert int(before_s * 1000) <= now_ms <= time.time() * 1000


async def test_the_system_clock_wakes_at_the_time_and_not_before() -> None:
    clock = SystemClock()
    until_ms = clock.now_ms() + 20
    async with asyncio.timeout(30):
        await clock.sleep_until(until_ms)
    assert clock.now_ms() >= until_ms


async def test_a_time_that_has_come_is_not_waited_for() -> None:
    for clock in (
        SystemClock(),
        ManualClock(NOW),
        ScaledClock(ManualClock(NOW), start_ms=NOW, speed=2.0),
    ):
        for until_ms in (0, clock.now_ms()):
            async with asyncio.timeout(1):
                await clock.sleep_until(until_ms)


class SetClock(SystemClock):
    """The system's clock on a machine where somebody sets it, `by_ms` after `after_s` seconds."""

    def __init__(self, *, after_s: float, by_ms: int) -> None:
        self._loop = asyncio.get_running_loop()
        self._started_s = self._loop.time()
        self._after_s, self._by_ms = after_s, by_ms

    def now_ms(self) -> int:
        gone_s = self._loop.time() - self._started_s
        return NOW + round(gone_s * 1000) + (self._by_ms if gone_s > self._after_s else 0)


def test_a_system_clock_that_is_set_back_meanwhile_does_not_wake_too_early() -> None:
    async def main() -> None:
        clock = SetClock(after_s=100, by_ms=-7_200_000)
        await clock.sleep_until(NOW + 600_000)
        assert NOW + 600_000 <= clock.now_ms() < NOW + 601_000

    run_hastily(main())


def test_a_system_clock_that_is_set_on_meanwhile_wakes_within_a_minute() -> None:
    async def main() -> None:
        clock = SetClock(after_s=100, by_ms=7_200_000)
        started_s = asyncio.get_running_loop().time()
        await clock.sleep_until(NOW + 7_000_000)
        assert asyncio.get_running_loop().time() - started_s <= 161

    run_hastily(main())


# The test's


async def test_a_manual_clock_moves_only_when_it_is_told_to() -> None:
    clock = ManualClock(NOW)
    sleeper = await asleep(clock, NOW + 10)
    clock.advance(9)
    await settled()
    assert not sleeper.done()
    clock.set(NOW + 10)
    assert await sleeper == clock.now_ms() == NOW + 10


async def test_a_manual_clock_wakes_all_whose_time_has_come_and_nobody_else() -> None:
    clock = ManualClock(NOW)
    sleepers = [await asleep(clock, NOW + ms) for ms in (5, 10, 10, 15)]
    clock.advance(10)
    await settled()
    assert [sleeper.done() for sleeper in sleepers] == [True, True, True, False]
    clock.advance(10)
    await settled()
    assert sleepers[-1].done()


async def test_a_manual_clock_set_back_before_the_sleeper_runs_lets_it_sleep_on() -> None:
    clock = ManualClock(NOW)
    sleeper = await asleep(clock, NOW + 10)
    clock.advance(10)
    clock.set(NOW)
    await settled()
    assert not sleeper.done()
    clock.advance(11)
    assert await sleeper == NOW + 11


async def test_a_sleeper_that_is_cancelled_is_forgotten() -> None:
    clock = ManualClock(NOW)
    gone, stays = await asleep(clock, NOW + 10), await asleep(clock, NOW + 10)
    gone.cancel()
    clock.advance(10)
    assert await stays == NOW + 10
    with pytest.raises(asyncio.CancelledError):
        await gone


# The scaled one


def test_a_scaled_clock_stands_at_its_start_and_runs_at_its_speed() -> None:
    inner = ManualClock(NOW)
    fast = ScaledClock(inner, start_ms=1_000_000, speed=60.0)
    slow = ScaledClock(inner, start_ms=1_000_000, speed=0.5)
    assert fast.now_ms() == slow.now_ms() == 1_000_000
    inner.advance(1_000)
    assert (fast.now_ms(), slow.now_ms()) == (1_060_000, 1_000_500)


@given(
    speed=st.floats(0.01, 10_000),
    start_ms=st.integers(0, 2 * NOW),
    wait_ms=st.integers(1, 10**9),
)
async def test_a_scaled_clock_wakes_at_its_own_time(speed: float, start_ms: int, wait_ms: int) -> None:
    inner = ManualClock(NOW)
    clock = ScaledClock(inner, start_ms=start_ms, speed=speed)
    sleeper = await asleep(clock, start_ms + wait_ms)
    inner.advance(int(wait_ms / speed * 0.999))
    await settled()
    assert sleeper.done() == (clock.now_ms() >= start_ms + wait_ms)
    # The inner clock ticks in milliseconds: the one after next is the latest that it can be.
    inner.set(NOW + int(wait_ms / speed) + 2)
    async with asyncio.timeout(30):
        assert await sleeper >= start_ms + wait_ms
