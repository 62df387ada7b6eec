"""Who listens to a store hears of every change, and of nothing else."""

from __future__ import annotations

import asyncio

from scripted import INSTRUMENT, MINUTE, START, M, bar

from marketd.domain.coverage import Covered, Reason
from marketd.domain.instrument import Series
from marketd.domain.timerange import TimeRange
from marketd.storage import Change, Storage

SERIES = Series(INSTRUMENT, MINUTE)


async def test_new_and_revised_bars_are_told_before_store_returns(storage: Storage) -> None:
    told: list[Change | None] = []
    storage.listen(told.append)
    await storage.store(SERIES, [bar(0), bar(3)], [], at_ms=START)
    assert told == [Change(SERIES, TimeRange(START, START + 3 * M + 1), is_revision=False)]
    await storage.store(SERIES, [bar(3, close=5.0)], [], at_ms=START)
    span = TimeRange(START + 3 * M, START + 3 * M + 1)
    assert told[1:] == [Change(SERIES, span, is_revision=True)]
    await storage.store(SERIES, [], [Covered(START, START + 9 * M, Reason.DATA)], at_ms=START)
    await storage.store(SERIES, [bar(1)], [], at_ms=START)
    assert told[2:] == [Change(SERIES, TimeRange(START + M, START + M + 1), is_revision=True)]


async def test_what_changes_no_bar_is_not_told(storage: Storage) -> None:
    await storage.store(SERIES, [bar(0)], [], at_ms=START)
    told: list[Change | None] = []
    storage.listen(told.append)
    await storage.store(SERIES, [bar(0)], [Covered(START, START + M, Reason.DATA)], at_ms=START)
    await storage.store(SERIES, [], [Covered(START, START + 9 * M, Reason.DATA)], at_ms=START)
    assert told == []


async def test_a_write_whose_caller_was_cancelled_is_told_all_the_same(storage: Storage) -> None:
    told = asyncio.Event()
    storage.listen(lambda change: told.set())
    writing = asyncio.ensure_future(storage.store(SERIES, [bar(0)], [], at_ms=START))
    await asyncio.sleep(0)
    writing.cancel()
    await asyncio.wait_for(told.wait(), 30)
