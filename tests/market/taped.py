"""The trades of one instrument, for tests of those who read them."""

from __future__ import annotations

import asyncio
from typing import Any

from scripted import INSTRUMENT, START, RememberingPlugin, provider_of, scripted

from marketd.clock import ManualClock
from marketd.domain.bar import Tick
from marketd.domain.timerange import TimeRange
from marketd.market.tapes import TapeRead, Tapes
from marketd.market.tick_pages import TickPages
from marketd.metrics import Metrics
from marketd.plugins.feed import TickFeed
from marketd.storage import Storage

S = 1_000
NOW = START + 3_600 * S
SPAN = TimeRange(START, START + 100 * S)


def tick(ms: int, trade_id: str = "") -> Tick:
    return (START + ms, 100.0, 0.5, "buy", trade_id or str(ms))


class World:
    """One instrument's trades at a scripted provider, and an empty store."""

    def __init__(self, storage: Storage, cls: type[Any] = RememberingPlugin) -> None:
        plugin = scripted([], now_ms=NOW, cls=cls, clock=ManualClock(NOW))
        self.plugin: Any = plugin
        self.feed = TickFeed(provider_of(plugin), INSTRUMENT)
        self.storage = storage
        self.tapes = Tapes(storage, Metrics())
        self.pages = TickPages(self.tapes, request_timeout_ms=2_000, keep_ms=3_600 * S)

    async def read(
        self, span: TimeRange = SPAN, limit: int = 100, *, newest: bool = False, patience_s: float = 2
    ) -> TapeRead:
        deadline_s = asyncio.get_running_loop().time() + patience_s
        return await self.tapes.read(self.feed, span, limit=limit, newest=newest, deadline_s=deadline_s)
