"""Where bars came from, how long it took, and what callers shared, as the metrics tell it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from scripted import START, M, bar, feed_of, provider_of, scripted

from marketd.cache import MemoryCache
from marketd.domain.timeframe import Timeframe
from marketd.market.history import History
from marketd.market.orchestrator import DataOrchestrator
from marketd.metrics import Metrics
from marketd.storage.sqlite import SQLiteStorage

HOUR, MINUTE = Timeframe.parse("1h"), Timeframe.parse("1m")


class Reader:
    """Asks one feed, whose plugin has 600 minutes, as requests do."""

    def __init__(self, storage: SQLiteStorage) -> None:
        self.metrics = Metrics()
        self.plugin = scripted([bar(minute) for minute in range(600)], now_ms=START + 700 * M)
        history = History(storage, self.metrics, [MemoryCache(1_000_000)])
        self._orchestrator = DataOrchestrator(history, request_timeout_ms=5_000, depth_ms=10**9)
        self._feed = feed_of(provider_of(self.plugin))

    async def ask(self, timeframe: Timeframe = MINUTE, **window: Any) -> None:
        question = {"since": START, "before": START + 600 * M, "limit": 1_000, **window}
        await self._orchestrator.bars(self._feed, timeframe, **question)

    def told(self, metric: str) -> dict[str, float]:
        """The values of one metric by its source or provider."""
        samples = [one for family in self.metrics.registry.collect() for one in family.samples]
        return {
            next(iter(one.labels.values())): one.value
            for one in samples
            if one.name == metric and one.value
        }


@pytest.fixture
async def reader(storage: SQLiteStorage) -> Reader:
    return Reader(storage)


async def test_bars_are_counted_and_reads_timed_by_their_source(reader: Reader) -> None:
    for _ in range(4):
        await reader.ask()
    await reader.ask(HOUR)
    served = {"provider": 600, "memory": 1_800, "aggregates": 10}
    assert reader.told("marketd_bars_served_total") == served
    reads = {"provider": 1, "memory": 3, "aggregates": 1}
    assert reader.told("marketd_read_seconds_count") == reads


async def test_callers_that_share_a_call_are_counted(reader: Reader) -> None:
    await asyncio.gather(*(reader.ask() for _ in range(5)))
    calls = len(reader.plugin.calls)
    assert calls == 6  # pages of a hundred bars, once
    # Each of the four others waited for one at least.
    assert reader.told("marketd_reads_coalesced_total")["test"] >= 4
    await reader.ask()
    assert len(reader.plugin.calls) == calls
