"""Coarse bars come from what the store has computed ahead, where it proves to have their base bars."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any

import pytest
from scripted import START, M, ScriptedPlugin, bar, feed_of, provider_of, scripted

from marketd.domain.bar import Bar
from marketd.domain.coverage import Gap, Reason
from marketd.domain.errors import ProviderFailed, ProviderTimeout
from marketd.domain.resample import resample
from marketd.domain.timeframe import DAY_MS, Timeframe
from marketd.market.history import History
from marketd.market.orchestrator import Bars, DataOrchestrator
from marketd.metrics import Metrics
from marketd.storage.sqlite import SQLiteStorage

HOUR, DAY = Timeframe.parse("1h"), Timeframe.parse("1d")
DAYS = 20
BARS = [bar(minute, volume=0.1 + minute % 7) for minute in range(DAYS * 1440)]
END = START + DAYS * DAY_MS


class Reader:
    """Asks for bars as a request does, and knows what came from where."""

    def __init__(self, storage: SQLiteStorage, plugin: ScriptedPlugin, timeout_ms: int = 20_000) -> None:
        self.metrics = Metrics()
        history = History(storage, self.metrics)
        self._orchestrator = DataOrchestrator(
            history, request_timeout_ms=timeout_ms, depth_ms=400 * DAY_MS
        )
        self._feed = feed_of(provider_of(plugin))

    async def ask(self, timeframe: Timeframe, **window: Any) -> Bars:
        question = {"since": None, "before": None, "limit": 500, **window}
        return await self._orchestrator.bars(self._feed, timeframe, **question)

    def served(self, source: str) -> int:
        return int(self.metrics.bars_served.labels(source)._value.get())


@pytest.fixture
def plugin() -> ScriptedPlugin:
    plugin = scripted(BARS, now_ms=END + 30 * M)
    plugin.page_limit = 10_000  # type: ignore[misc]
    return plugin


def fail(_: Sequence[Bar]) -> None:
    raise ProviderFailed("no.", transient=False)


@pytest.mark.parametrize("since", [None, START])
async def test_the_second_answer_is_the_same_and_reads_a_row_for_each_bar(
    storage: SQLiteStorage, plugin: ScriptedPlugin, since: int | None
) -> None:
    first = await Reader(storage, plugin).ask(HOUR, since=since)
    assert first.bars == resample(BARS, HOUR)
    steps = 0

    def count() -> int:
        nonlocal steps
        steps += 1
        return 0

    def listen(raw: sqlite3.Connection) -> None:
        raw.set_progress_handler(count, 1_000)

    await Reader(storage, plugin).ask(HOUR, since=since)
    connection = storage._connection
    assert connection is not None
    await connection.run(listen)
    reader = Reader(storage, plugin)
    assert await reader.ask(HOUR, since=since) == first
    assert reader.served("aggregates") >= 479
    # Some ten instructions a row, and 30,000 rows if they were those of the base.
    assert steps < 15


async def test_what_is_not_proven_is_read_bar_by_bar_between_aggregates(
    storage: SQLiteStorage, plugin: ScriptedPlugin
) -> None:
    reader = Reader(storage, plugin)
    for first, last in ((1, 4), (6, 9)):
        await reader.ask(DAY, since=START + first * DAY_MS, before=START + last * DAY_MS)
    for newest in (False, True):
        found = await reader.ask(DAY, since=None if newest else START, before=START + 9 * DAY_MS)
        assert found.bars == resample(BARS[: 9 * 1440], DAY)
        assert found.complete
        assert found.reach.end_ms == START + 9 * DAY_MS


async def test_a_failure_at_the_newest_bar_leaves_all_that_is_proven(
    storage: SQLiteStorage, plugin: ScriptedPlugin
) -> None:
    reader = Reader(storage, plugin)
    await reader.ask(DAY, since=START, before=END)
    plugin.answers = [fail] * 5
    found = await reader.ask(DAY, limit=15)
    assert found.bars == resample(BARS, DAY)[-15:]
    assert [gap.reason for gap in found.gaps] == [Reason.FEED_DOWN]


async def test_a_bar_that_cannot_be_right_costs_its_own_bucket(
    storage: SQLiteStorage, plugin: ScriptedPlugin
) -> None:
    wrong = 5 * 1440 + 7
    plugin.bars[wrong] = (plugin.bars[wrong][0], 1.0, 0.5, 2.0, 1.0, 1.0)
    reader = Reader(storage, plugin)
    t_ms = plugin.bars[wrong][0]
    days = resample(BARS, DAY)
    for _ in range(2):
        for since in (None, START):
            found = await reader.ask(DAY, since=since, before=END)
            assert found.bars == [*days[:5], *days[6:]]
            assert found.gaps == [Gap(t_ms, t_ms + M, Reason.UNRECOVERABLE)]


async def test_what_takes_longer_than_a_request_may_is_told_and_not_waited_for(
    storage: SQLiteStorage, plugin: ScriptedPlugin
) -> None:
    await Reader(storage, plugin).ask(DAY, since=START, before=END)
    with pytest.raises(ProviderTimeout):
        await Reader(storage, plugin, timeout_ms=0).ask(DAY, since=START, before=END)
