"""What the contract's tests store: pages of one series, and short words for storing and reading."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

from scripted import INSTRUMENT, MINUTE, START, M

from marketd.domain.bar import Bar, Value
from marketd.domain.coverage import Covered, Reason
from marketd.domain.instrument import Series
from marketd.domain.timerange import MAX_MS, MIN_MS, TimeRange
from marketd.storage import Storage, Stored, StoredBars

SERIES = Series(INSTRUMENT, MINUTE)
EVER = TimeRange(MIN_MS, MAX_MS)
NAN = float("nan")  # not the object that math.nan is: two of them never compare equal
NOTHING = StoredBars([], [])
UNSTORABLE: Bar = (2**63, 1.0, 1.0, 1.0, 1.0, 1.0)  # no database has a place for its time


def minutes(start: int, end: int) -> TimeRange:
    return TimeRange(START + start * M, START + end * M)


def data(start: int, end: int, reason: Reason = Reason.DATA) -> Covered:
    """What a store says of the minutes `[start, end)` once they are proven, or else of them."""
    return Covered(*minutes(start, end), reason)


def page(start: int, end: int, close: Value = 100.0) -> list[Bar]:
    return [(START + minute * M, 100.0, math.inf, -math.inf, close, 1.0) for minute in range(start, end)]


async def put(
    storage: Storage, bars: Sequence[Bar], *covered: Covered, series: Series = SERIES
) -> Stored:
    return await storage.store(series, bars, covered, at_ms=START)


async def everything(storage: Storage, series: Series = SERIES) -> StoredBars:
    return await storage.read(series, EVER, limit=100_000)


@asynccontextmanager
async def opened(database: Callable[[], Storage]) -> AsyncIterator[Storage]:
    storage = database()
    await storage.open()
    try:
        yield storage
    finally:
        await storage.close()
