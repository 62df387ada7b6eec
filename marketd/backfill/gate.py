"""Whether the daemon has time for background work, measured where its clients would feel it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager

from marketd.metrics import Metrics

_PERIOD_S = 0.1
# A loop that is this late answers slowly already; so does one with this much under way.
_LATE_S = 0.05
_MANY = 8


class LoadGate:
    """Open while the event loop is on time and little is under way that somebody waits for."""

    def __init__(self, metrics: Metrics) -> None:
        self._lag = metrics.loop_lag
        self._late = False
        self._under_way = 0
        self._open = asyncio.Event()
        self._open.set()

    @property
    def is_open(self) -> bool:
        return self._open.is_set()

    async def passed(self) -> None:
        """Returns once background work may go on."""
        await self._open.wait()

    @contextmanager
    def urgent(self) -> Iterator[None]:
        """Around what somebody waits for: a request, or a closed bar on its way to its clients."""
        self._under_way += 1
        self._decide()
        try:
            yield
        finally:
            self._under_way -= 1
            self._decide()

    async def watch(self) -> None:
        """Measures how late the loop is, until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            due_s = loop.time() + _PERIOD_S
            await asyncio.sleep(_PERIOD_S)
            self.measured(loop.time() - due_s)

    def measured(self, lag_s: float) -> None:
        """The loop was `lag_s` late just now."""
        self._lag.set(lag_s)
        self._late = lag_s >= _LATE_S
        self._decide()

    def _decide(self) -> None:
        if self._late or self._under_way >= _MANY:
            self._open.clear()
        else:
            self._open.set()
