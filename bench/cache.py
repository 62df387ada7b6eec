"""Reads of 1,000 stored bars by way of a cache, against the same reads of the store itself.

Memory stands in front of SQLite, and Redis, which nodes share, in front of PostgreSQL: there as a node
has it that keeps nothing in memory. While bars come in, each takes back the one bucket that it lies in,
and the last 1,000 are read after each.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import mean

from bench.report import Row, alternate, faster, within
from bench.series import BITCOIN, FIRST_MS, MINUTE_MS, PAGE, pages
from marketd.cache import MemoryCache
from marketd.cache.bucket import BUCKET_BARS
from marketd.cache.redis import RedisCache
from marketd.domain.coverage import Covered, Reason
from marketd.domain.timerange import TimeRange
from marketd.market.stored import STORAGE, StoredReads
from marketd.metrics import Metrics
from marketd.storage import Storage
from marketd.storage.postgres import PostgresStorage
from marketd.storage.sqlite import SQLiteStorage
from tests.redis_server import RedisServer
from tests.servers import postgres

_PAGES = 30
_MEMORY = 32_000_000


def rows(scratch: Path, quick: bool) -> Iterator[Row]:
    reads, rounds = (100, 5) if quick else (300, 9)
    windows = [FIRST_MS + (i * 7_919 % ((_PAGES - 1) * PAGE)) * MINUTE_MS for i in range(reads)]
    with asyncio.Runner() as runner:
        storage: Storage = SQLiteStorage(scratch / "marketd.db")
        memory = MemoryCache(_MEMORY)
        near, far = StoredReads(storage, [memory]), StoredReads(storage)
        runner.run(_fill(storage))
        versus = alternate(
            lambda: runner.run(_reads_a_second(near, windows)),
            lambda: runner.run(_reads_a_second(far, windows)),
            rounds,
        )
        yield faster("1,000 bars out of memory", "out of SQLite", versus, "reads/s", 1.0)
        again = runner.run(_read_again(storage, near, reads))
        yield within("  read again after a new bar", again, BUCKET_BARS + 1, "bars")
        runner.run(storage.close())
    with RedisServer(scratch) as server, postgres.running() as database, asyncio.Runner() as runner:
        server.start()
        storage = PostgresStorage(database.url())
        runner.run(_fill(storage))
        # Made in the loop that it is used in.
        redis = runner.run(_redis(server.url))
        near, far = StoredReads(storage, [redis]), StoredReads(storage)
        versus = alternate(
            lambda: runner.run(_reads_a_second(near, windows)),
            lambda: runner.run(_reads_a_second(far, windows)),
            rounds,
        )
        yield faster("1,000 bars out of Redis", "out of PostgreSQL", versus, "reads/s", 1.0)
        runner.run(redis.close())
        runner.run(storage.close())


async def _redis(url: str) -> RedisCache:
    return RedisCache(url, "bench", Metrics())


async def _fill(storage: Storage) -> None:
    await storage.open()
    for page in pages(_PAGES, PAGE):
        proven = Covered(page[0][0], page[-1][0] + MINUTE_MS, Reason.DATA)
        await storage.store(BITCOIN, page, [proven], at_ms=proven.end_ms)


async def _reads_a_second(reads: StoredReads, windows: Sequence[int]) -> float:
    """Of the windows once each, after the cache has had the chance to keep them."""
    for _ in range(2):
        for start_ms in windows:
            await _read(reads, start_ms)
    started_s = time.perf_counter()
    for start_ms in windows:
        await _read(reads, start_ms)
    return len(windows) / (time.perf_counter() - started_s)


async def _read(reads: StoredReads, start_ms: int) -> None:
    span = TimeRange(start_ms, FIRST_MS + _PAGES * PAGE * MINUTE_MS)
    found = await reads.read(BITCOIN, span, limit=PAGE)
    if len(found.bars) != PAGE:
        raise RuntimeError("Bars are missing.")


async def _read_again(storage: Storage, reads: StoredReads, bars: int) -> float:
    """How many of the last 1,000 bars come out of the store after each of so many new ones."""
    end_ms = FIRST_MS + _PAGES * PAGE * MINUTE_MS
    counts = []
    for page in pages(bars, 1, start_ms=end_ms):
        proven = Covered(page[0][0], page[0][0] + MINUTE_MS, Reason.DATA)
        await storage.store(BITCOIN, page, [proven], at_ms=proven.end_ms)
        found = await reads.read(BITCOIN, TimeRange(FIRST_MS, proven.end_ms), limit=PAGE, newest=True)
        counts.append(found.sources.get(STORAGE, 0))
    return mean(counts)
