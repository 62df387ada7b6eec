"""Background tasks with an owner: named, started again when they crash, and stopped together."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from typing import Any

from marketd.metrics import Metrics

log = logging.getLogger(__name__)

_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 30.0
# How long a cancelled task may take before it is cancelled once more.
_LOST_S = 1.0


class Supervisor:
    """Owns the daemon's background tasks. `stop` cancels them and returns when all have ended."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._tasks: set[asyncio.Task[None]] = set()

    def run(self, name: str, work: Callable[[], Coroutine[Any, Any, None]]) -> asyncio.Task[None]:
        """Runs `work` until it returns; a crash is logged, counted and followed by a new start."""
        task = asyncio.create_task(self._keep_running(name, work), name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def stop(self) -> None:
        """Cancels every task and waits for its end."""
        await cancel_all(self._tasks)

    async def _keep_running(self, name: str, work: Callable[[], Awaitable[None]]) -> None:
        loop = asyncio.get_running_loop()
        pause_s = _FIRST_PAUSE_S
        while True:
            started_s = loop.time()
            try:
                return await work()
            except (Exception, asyncio.CancelledError):
                # What was told to end has ended; that another has cancelled what it awaited is a crash.
                raise_if_cancelled()
                if loop.time() - started_s > _LONGEST_PAUSE_S:
                    # It had recovered: this is a new fault, not the last one over again.
                    pause_s = _FIRST_PAUSE_S
                log.exception("task crashed task=%s restart_in_s=%.1f", name, pause_s)
                self._metrics.task_crashes.labels(name).inc()
            await asyncio.sleep(random.uniform(pause_s / 2, pause_s))  # noqa: S311 - jitter
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)


async def cancel_all(tasks: Iterable[asyncio.Task[None]]) -> None:
    """Cancels `tasks` and waits until all have ended; what one failed with is logged."""
    ended = list(tasks)
    pending = set(ended)
    while pending := {task for task in pending if not task.done()}:
        for task in pending:
            task.cancel()
        # Once is not enough where it was lost, see below.
        await asyncio.wait(pending, timeout=_LOST_S)
    for task in ended:
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("task failed task=%s", task.get_name(), exc_info=error)


def raise_if_cancelled() -> None:
    """Raises CancelledError in a task that was cancelled while what it awaited has lost that.

    `asyncio.wait_for` of Python 3.11 may, and with it the Redis client, and whatever library a plugin
    has. To be called after each such wait: a group of tasks cancels its own only once, and would wait
    for one that goes on for ever.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError
