"""Tells an extension which bars were stored, without keeping anybody waiting."""

from __future__ import annotations

import asyncio
import logging

from marketd.domain.instrument import Series
from marketd.domain.timerange import TimeRange
from marketd.metrics import Metrics
from marketd.plugins.extension import Extension

log = logging.getLogger(__name__)


class Hearer:
    """One extension's ear. What it has not heard yet is put together, so that it never grows long."""

    def __init__(self, plugin: str, extension: Extension, *, timeout_s: float, metrics: Metrics) -> None:
        self._plugin = plugin
        self._extension = extension
        self._timeout_s = timeout_s
        self._failures = metrics.extension_failures.labels(plugin)
        self._waiting: dict[Series, TimeRange] = {}
        self._told = asyncio.Event()
        self._has_failed = False

    def tell(self, series: Series, span: TimeRange) -> None:
        """Notes that bars of `series` in `span` were stored. Returns at once."""
        kept = self._waiting.get(series, span)
        start_ms, end_ms = min(kept.start_ms, span.start_ms), max(kept.end_ms, span.end_ms)
        self._waiting[series] = TimeRange(start_ms, end_ms)
        self._told.set()

    async def run(self) -> None:
        """Passes on what was told, until it is cancelled."""
        while True:
            await self._told.wait()
            self._told.clear()
            while self._waiting:
                series = next(iter(self._waiting))
                await self._pass_on(series, self._waiting.pop(series))

    async def _pass_on(self, series: Series, span: TimeRange) -> None:
        try:
            async with asyncio.timeout(self._timeout_s):
                await self._extension.bars_stored(series, span)
        except Exception as error:
            self._failures.inc()
            if not self._has_failed:
                # Its kind alone, as everywhere: the text may hold a secret.
                log.warning(
                    "plugin failed to hear of bars plugin=%s error=%s",
                    self._plugin,
                    type(error).__name__,
                )
            self._has_failed = True
        else:
            self._has_failed = False
