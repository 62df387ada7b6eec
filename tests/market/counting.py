"""Bars that are measured in the trades of one instrument, for tests of those who count them."""

from __future__ import annotations

from typing import Any

from scripted import START, TickingPlugin
from taped import NOW, World

from marketd.domain.bar import Tick
from marketd.domain.coverage import Covered, Reason
from marketd.domain.tickframe import Tickframe
from marketd.domain.timeframe import DAY_MS
from marketd.domain.timerange import MIN_MS
from marketd.market.tick_bar_pages import TickBarPages, TickBarsPage
from marketd.storage import Storage

MIDNIGHT = START - START % DAY_MS
THREE = Tickframe.parse("3t")


def tick(ms: int, number: int = 0) -> Tick:
    return (MIDNIGHT + ms, 100.0 + number % 7, 0.1 * (number % 3), "", str(number))


class Counting:
    """One instrument's trades, and the pages of bars that are made of them."""

    def __init__(
        self,
        storage: Storage,
        cls: type[Any] = TickingPlugin,
        patience_ms: int = 2_000,
        keep_ms: int = 10 * DAY_MS,
    ) -> None:
        self.world = World(storage, cls)
        self.pages = TickBarPages(self.world.tapes, request_timeout_ms=patience_ms, keep_ms=keep_ms)

    async def keep(self, *ticks: Tick, known: tuple[int, int] = (MIN_MS, NOW)) -> None:
        await self.world.tapes.keep(self.world.feed, ticks, [Covered(*known, Reason.DATA)])

    async def page(self, frame: Tickframe = THREE, **asked: Any) -> TickBarsPage:
        query = {"since": None, "before": None, "limit": 100, "page_token": None} | asked
        return await self.pages.page(self.world.feed, frame, **query)


def opens(page: TickBarsPage) -> list[int]:
    return [bar[0] - MIDNIGHT for bar in page.bars]
