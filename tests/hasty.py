"""An event loop for tests of waiting: its clock jumps to the next timer instead of sitting it out."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


class _Selector(selectors.SelectSelector):
    skipped_s = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout:
            self.skipped_s += timeout
            timeout = 0
        return super().select(timeout)


class HastyLoop(asyncio.SelectorEventLoop):
    """What its tasks sleep passes at once; between themselves they see the time that they asked for."""

    def __init__(self) -> None:
        self._hasty = _Selector()
        super().__init__(self._hasty)

    def time(self) -> float:
        return super().time() + self._hasty.skipped_s


def run_hastily(work: Coroutine[Any, Any, T]) -> T:
    """Runs `work` to its end on a loop of that kind."""
    with asyncio.Runner(loop_factory=HastyLoop) as runner:
        return runner.run(work)
