"""The gate is open unless somebody would feel that it is."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack

from hasty import run_hastily

from marketd.backfill.gate import LoadGate
from marketd.metrics import Metrics


async def test_a_late_loop_shuts_it_and_one_on_time_opens_it() -> None:
    metrics = Metrics()
    gate = LoadGate(metrics)
    await gate.passed()
    gate.measured(0.2)
    waiting = asyncio.create_task(gate.passed())
    await asyncio.sleep(0)
    assert not waiting.done()
    assert metrics.registry.get_sample_value("marketd_loop_lag_seconds") == 0.2
    gate.measured(0.001)
    await asyncio.wait_for(waiting, 1)


async def test_much_that_is_waited_for_shuts_it_until_it_is_done() -> None:
    gate = LoadGate(Metrics())
    with ExitStack() as requests:
        while gate.is_open:
            requests.enter_context(gate.urgent())
        gate.measured(0.0)
        assert not gate.is_open
    assert gate.is_open


def test_pieces_pass_one_by_one_and_rarely_while_clients_are_busy() -> None:
    async def run() -> None:
        loop = asyncio.get_running_loop()
        gate, passed = LoadGate(Metrics()), []
        watching = asyncio.create_task(gate.watch())

        async def work() -> None:
            while True:
                await gate.passed()
                passed.append(loop.time())
                await asyncio.sleep(0)

        async def ask(every_s: float, for_s: float) -> list[float]:
            """When pieces passed while clients asked that often."""
            end_s = loop.time() + for_s
            while loop.time() < end_s:
                with gate.urgent():
                    await asyncio.sleep(every_s)
            return [at_s for at_s in passed if at_s > end_s - for_s + 1]

        workers = [asyncio.create_task(work()) for _ in range(5)]
        for every_s, least, most in ((0.5, 200, 500), (0.05, 2, 5), (0.5, 200, 500)):
            assert least <= len(await ask(every_s, for_s=3)) <= most
        for task in (watching, *workers):
            task.cancel()

    run_hastily(run())


async def test_what_holds_the_loop_up_is_measured() -> None:
    gate = LoadGate(Metrics())
    watching = asyncio.create_task(gate.watch())
    await asyncio.sleep(0)
    asyncio.get_running_loop().call_later(0.05, hold_up)
    async with asyncio.timeout(2):
        while gate.is_open:  # noqa: ASYNC110 - what opens and shuts is under test
            await asyncio.sleep(0.01)
        await gate.passed()
    watching.cancel()


def hold_up() -> None:
    end_s = asyncio.get_running_loop().time() + 0.25
    while asyncio.get_running_loop().time() < end_s:
        pass
