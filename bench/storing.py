"""Storing pages of 1,000 new bars durably, in rows a second.

SQLiteStorage, each page with the coverage that it proves, against a bare `executemany` upsert into a
table of rows: both with a WAL, `synchronous=FULL`, and one transaction a page.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path

from bench.bare import connected, upsert
from bench.report import Row, alternate, faster
from bench.series import BITCOIN, FIRST_MS, MINUTE_MS, PAGE, pages
from marketd.domain.bar import Bar
from marketd.domain.coverage import Covered, Reason
from marketd.storage import Storage
from marketd.storage.sqlite import SQLiteStorage


def rows(scratch: Path, quick: bool) -> Iterator[Row]:
    rounds, page_count = (3, 40) if quick else (7, 100)
    ours_path, bare_path = scratch / "marketd.db", scratch / "bare.db"
    bare = connected(bare_path)
    storage = SQLiteStorage(ours_path)
    with asyncio.Runner() as runner:
        runner.run(storage.open())
        ours, theirs = batches(page_count), batches(page_count)
        versus = alternate(
            lambda: runner.run(stored_a_second(storage, next(ours))),
            lambda: _upserted_a_second(bare, next(theirs)),
            rounds,
        )
        runner.run(storage.close())
    bare.close()
    yield faster("storing bars, durable", "bare sqlite3 executemany upsert", versus, "rows/s", 0.7)


def batches(page_count: int) -> Iterator[list[list[Bar]]]:
    """Pages that follow on those of the batch before."""
    for batch in count():
        start_ms = FIRST_MS + (1 + batch * page_count * PAGE) * MINUTE_MS
        yield list(pages(page_count, PAGE, start_ms=start_ms))


async def stored_a_second(storage: Storage, batch: list[list[Bar]]) -> float:
    """Rows a second, each page of `batch` after the one before is on disk."""
    started_s = time.perf_counter()
    for page in batch:
        proven = Covered(page[0][0], page[-1][0] + MINUTE_MS, Reason.DATA)
        await storage.store(BITCOIN, page, [proven], at_ms=proven.end_ms)
    return len(batch) * PAGE / (time.perf_counter() - started_s)


def _upserted_a_second(bare: sqlite3.Connection, batch: list[list[Bar]]) -> float:
    started_s = time.perf_counter()
    for page in batch:
        upsert(bare, page)
    return len(batch) * PAGE / (time.perf_counter() - started_s)
