"""Whether the daemon has time for background work, measured where its clients would feel it."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager

from marketd.metrics import Metrics

_PERIOD_S = 0.1
# A loop that is this late answers slowly already; so does one with this much under way.
_LATE_S = 0.05
_MANY = 8
# From so much in the last second on, clients are busy, and a piece of background work, which holds the
# loop up for some milliseconds, has to be rare: what one in a hundred waits for is what is promised.
_BUSY = 50
_REST_S = 0.5


class LoadGate:
    """Open while the event loop is on time and little is under way that somebody waits for.

    While clients are busy it lets one piece of background work pass at a time, now and then.
    """

    def __init__(self, metrics: Metrics) -> None:
        self._lag = metrics.loop_lag
        self._late = False
        self._under_way = 0
        self._open = asyncio.Event()
        self._open.set()
        self._came = 0
        # What came in each of the last periods, a second together.
        self._recent: deque[int] = deque(maxlen=round(1 / _PERIOD_S))
        self._calm = asyncio.Event()
        self._calm.set()
        self._line = asyncio.Lock()
        self._rested_s = 0.0

    @property
    def is_open(self) -> bool:
        return self._open.is_set()

    async def passed(self) -> None:
        """Returns once a piece of background work may be done."""
        async with self._line:
            await self._rest()
            await self._open.wait()

    @contextmanager
    def urgent(self) -> Iterator[None]:
        """Around what somebody waits for: a request, or news on its way to its clients."""
        self._came += 1
        self._under_way += 1
        self._decide()
        try:
            yield
        finally:
            self._under_way -= 1
            self._decide()

    async def watch(self) -> None:
        """Measures how late the loop is, and how busy clients are, until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            due_s = loop.time() + _PERIOD_S
            await asyncio.sleep(_PERIOD_S)
            self.measured(loop.time() - due_s)

    def measured(self, lag_s: float) -> None:
        """The loop was `lag_s` late just now, at the end of a period."""
        self._lag.set(lag_s)
        self._late = lag_s >= _LATE_S
        self._recent.append(self._came)
        self._came = 0
        if sum(self._recent) >= _BUSY:
            self._calm.clear()
        else:
            self._calm.set()
        self._decide()

    async def _rest(self) -> None:
        """Returns once it is time again, which it always is while clients are calm."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout_at(self._rested_s):
                await self._calm.wait()
        except TimeoutError:
            pass
        self._rested_s = loop.time() + _REST_S

    def _decide(self) -> None:
        if self._late or self._under_way >= _MANY:
            self._open.clear()
        else:
            self._open.set()
