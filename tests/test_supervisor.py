"""Background tasks: started again when they crash, ever less often, and stopped together."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from itertools import pairwise

import pytest
from hasty import run_hastily

from marketd.metrics import Metrics
from marketd.supervisor import Supervisor, cancel_all, raise_if_cancelled


class Crashing:
    """Work that crashes after each of the given times, in seconds, and then returns."""

    def __init__(self, *lasting_s: float) -> None:
        self.lasting_s = list(lasting_s)
        self.started_s: list[float] = []

    async def __call__(self) -> None:
        self.started_s.append(asyncio.get_running_loop().time())
        if self.lasting_s:
            await asyncio.sleep(self.lasting_s.pop(0))
            raise RuntimeError("it broke")

    @property
    def between_s(self) -> list[float]:
        return [later - earlier for earlier, later in pairwise(self.started_s)]


def test_work_that_returns_is_over() -> None:
    async def main() -> None:
        work = Crashing()
        await Supervisor(Metrics()).run("once", work)
        assert len(work.started_s) == 1

    run_hastily(main())


def test_a_crash_is_logged_counted_and_followed_by_a_new_start(caplog: pytest.LogCaptureFixture) -> None:
    metrics = Metrics()
    work = Crashing(0.0, 0.0)

    async def main() -> None:
        await Supervisor(metrics).run("feed", work)

    run_hastily(main())
    assert len(work.started_s) == 3
    assert metrics.registry.get_sample_value("marketd_task_crashes_total", {"task": "feed"}) == 2
    assert [record.levelno for record in caplog.records] == [logging.ERROR] * 2
    assert "task=feed" in caplog.text
    assert "RuntimeError: it broke" in caplog.text


async def test_a_cancellation_that_nobody_asked_for_is_a_crash(caplog: pytest.LogCaptureFixture) -> None:
    runs = 0

    async def work() -> None:
        nonlocal runs
        runs += 1
        if runs == 1:
            awaited = asyncio.get_running_loop().create_future()
            awaited.cancel()
            await awaited

    await asyncio.wait_for(Supervisor(Metrics()).run("feed", work), 30)
    assert runs == 2
    assert "task crashed task=feed" in caplog.text


def test_the_pauses_double_up_to_half_a_minute() -> None:
    work = Crashing(*[0.0] * 10)

    async def main() -> None:
        await Supervisor(Metrics()).run("feed", work)

    run_hastily(main())
    longest_s = [0.5, 1, 2, 4, 8, 16, 30, 30, 30, 30]
    for pause_s, most_s in zip(work.between_s, longest_s, strict=True):
        assert most_s / 2 <= pause_s <= most_s + 0.1


def test_work_that_ran_well_for_long_is_started_again_soon() -> None:
    work = Crashing(*[0.0] * 8, 3_600.0, 0.0)

    async def main() -> None:
        await Supervisor(Metrics()).run("feed", work)

    run_hastily(main())
    *_, before_s, well_s, after_s = work.between_s
    assert before_s >= 15
    assert 3_600.2 <= well_s <= 3_600.6
    assert 0.5 <= after_s <= 1.1


async def test_stop_ends_every_task_whatever_it_does_then() -> None:
    supervisor = Supervisor(Metrics())
    ended: list[str] = []
    running = asyncio.Barrier(3)

    async def tidy() -> None:
        try:
            await running.wait()
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            ended.append("tidy")

    async def breaks_when_stopped() -> None:
        try:
            await running.wait()
            await asyncio.Event().wait()
        finally:
            ended.append("broken")
            raise RuntimeError("it broke at the end")

    tasks = [
        supervisor.run("tidy", tidy),
        supervisor.run("breaks", breaks_when_stopped),
        supervisor.run("pausing", Crashing(0.0)),
    ]
    await running.wait()
    async with asyncio.timeout(30):
        await supervisor.stop()
    assert sorted(ended) == ["broken", "tidy"]
    assert all(task.done() for task in tasks)


async def test_stopping_nothing_is_allowed() -> None:
    supervisor = Supervisor(Metrics())
    await supervisor.stop()
    await supervisor.stop()
    await cancel_all(set())


async def test_a_task_that_loses_its_cancellation_is_cancelled_once_more() -> None:
    losses = 0

    async def loses() -> None:
        nonlocal losses
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        losses += 1
        await asyncio.Event().wait()

    task = asyncio.create_task(loses())
    await asyncio.sleep(0)
    await asyncio.wait_for(cancel_all([task]), 30)
    assert task.cancelled()
    assert losses == 1


async def test_a_task_that_asks_learns_that_its_cancellation_was_lost() -> None:
    async def loses() -> None:
        raise_if_cancelled()
        with suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        raise_if_cancelled()

    task = asyncio.create_task(loses())
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    assert task.cancelled()
