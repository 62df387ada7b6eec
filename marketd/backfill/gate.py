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
# A piece of background work holds the loop up for a few milliseconds. What begins together also ends
# together, and several in a row are what somebody would notice, so they pass one by one.
_REST_S = 0.004
# From so much on that came in the last second clients are busy, and hardly any of them is to meet a
# piece: what one in a hundred waits for is what is promised.
_BUSY = 10
_BUSY_REST_S = 0.5


class LoadGate:
    """Open while the event loop is on time and little is under way that somebody waits for.

    It lets pieces of background work pass one at a time, rarely while clients are busy.
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
        self._line = asyncio.Lock()
        self._rest_s = _REST_S
        self._passed_s = 0.0

    @property
    def is_open(self) -> bool:
        return self._open.is_set()

    async def passed(self) -> None:
        """Returns once a piece of background work may be done."""
        loop = asyncio.get_running_loop()
        async with self._line:
            # It may become shorter or longer meanwhile.
            while (left_s := self._passed_s + self._rest_s - loop.time()) > 0:  # noqa: ASYNC110
                await asyncio.sleep(min(left_s, _PERIOD_S))
            await self._open.wait()
            self._passed_s = loop.time()

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
        self._rest_s = _REST_S if sum(self._recent) < _BUSY else _BUSY_REST_S
        self._decide()

    def _decide(self) -> None:
        if self._late or self._under_way >= _MANY:
            self._open.clear()
        else:
            self._open.set()
