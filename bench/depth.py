"""What stored bars cost: 1,000 bars of a range out of a small database, and out of a large one.

1 million bars in one series against 50 million in fifty (5 million in five with --quick), windows at
any place of any series, read through SQLiteStorage with both files in the system's cache.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterator
from pathlib import Path

from bench.report import Row, alternate
from bench.series import FIRST_MS, MINUTE_MS, build, other_series
from marketd.domain.timerange import TimeRange
from marketd.storage import Storage
from marketd.storage.sqlite import SQLiteStorage

SERIES_BARS = 1_000_000
ASKED = 1_000


def rows(scratch: Path, quick: bool) -> Iterator[Row]:
    series, reads, rounds = (5, 100, 5) if quick else (50, 200, 11)
    small, large = scratch / "small.db", scratch / "large.db"
    build(small, series=1, bars=SERIES_BARS)
    build(large, series=series, bars=SERIES_BARS)
    bytes_a_bar = large.stat().st_size / (series * SERIES_BARS)
    with asyncio.Runner() as runner:
        few, many = SQLiteStorage(small), SQLiteStorage(large)
        runner.run(few.open())
        runner.run(many.open())
        versus = alternate(
            lambda: runner.run(milliseconds(many, series, reads)),
            lambda: runner.run(milliseconds(few, 1, reads)),
            rounds,
        )
        runner.run(few.close())
        runner.run(many.close())
    yield Row(
        f"1,000 bars out of {series} million",
        f"{versus.ours:.2f} ms",
        "out of 1 million",
        f"{versus.peer:.2f} ms",
        f"{versus.ratio:.2f}x",
        "<= 1.2x",
        versus.ratio <= 1.2,
    )
    yield Row(f"{series} million bars on disk", f"{bytes_a_bar:.1f} B a bar", "", "", "", "", None)


async def milliseconds(storage: Storage, series: int, reads: int) -> float:
    """The mean time of one read."""
    dice = random.Random(1)  # noqa: S311 - nothing secret, and the same places each time
    started_s = time.perf_counter()
    for _ in range(reads):
        start_ms = FIRST_MS + dice.randrange(SERIES_BARS - ASKED) * MINUTE_MS
        span = TimeRange(start_ms, start_ms + SERIES_BARS * MINUTE_MS)
        stored = await storage.read(other_series(dice.randint(1, series)), span, limit=ASKED)
        if len(stored.bars) != ASKED:
            raise RuntimeError("Bars are missing.")
    return (time.perf_counter() - started_s) / reads * 1000
