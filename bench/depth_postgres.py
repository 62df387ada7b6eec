"""What bars stored in PostgreSQL cost: 1,000 of a range out of a small database, and out of a large one.

1 million bars in one series against 50 million in fifty (5 million in five with --quick), windows at
any place of any series, read through PostgresStorage; out of the large one against bare asyncpg, too.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterator
from pathlib import Path

import asyncpg

from bench.depth import ASKED, SERIES_BARS, milliseconds
from bench.report import Row, alternate
from bench.series import FIRST_MS, MINUTE_MS, other_series, pages
from marketd.domain.coverage import Covered, Reason
from marketd.storage.postgres import PostgresStorage
from tests.servers import postgres

_FILL = """
    INSERT INTO bar (series, t, open, high, low, close, volume)
    SELECT id, $1 + i * $2, p, p + 9.81, p - 9.43, p + 3.17, (i * 7907 % 2399) / 256.0
    FROM series, generate_series(1::bigint, $3) AS i,
        LATERAL (SELECT 42000 + (i * 7919 % 20011 - 10000) * 0.37::float8) AS price (p)
"""
_READ = """
    SELECT t, open, high, low, close, volume FROM bar
    WHERE series = $1 AND t >= $2 AND t < $3 ORDER BY t LIMIT $4
"""


def rows(scratch: Path, quick: bool) -> Iterator[Row]:
    series, reads, rounds = (5, 100, 5) if quick else (50, 200, 11)
    with postgres.running() as server, asyncio.Runner() as runner:
        small, large = (runner.run(server.create(name)) for name in ("small", "large"))
        few, many = PostgresStorage(small), PostgresStorage(large)
        runner.run(_build(few, small, 1))
        bytes_a_bar = runner.run(_build(many, large, series)) / (series * SERIES_BARS)
        bare = runner.run(asyncpg.connect(large))
        deep = alternate(
            lambda: runner.run(milliseconds(many, series, reads)),
            lambda: runner.run(milliseconds(few, 1, reads)),
            rounds,
        )
        plain = alternate(
            lambda: runner.run(milliseconds(many, series, reads)),
            lambda: runner.run(_bare_milliseconds(bare, series, reads)),
            rounds,
        )
        runner.run(bare.close())
        runner.run(few.close())
        runner.run(many.close())
    asked = f"1,000 bars out of {series} million, PostgreSQL"
    for versus, peer, most in ((deep, "out of 1 million", 1.2), (plain, "bare asyncpg select", 1.4)):
        yield Row(
            asked,
            f"{versus.ours:.2f} ms",
            peer,
            f"{versus.peer:.2f} ms",
            f"{versus.ratio:.2f}x",
            f"<= {most}x",
            versus.ratio <= most,
        )
    on_disk = f"{bytes_a_bar:.1f} B a bar"
    yield Row(f"{series} million bars on disk, PostgreSQL", on_disk, "", "", "", "", None)


async def _build(storage: PostgresStorage, url: str, series: int) -> int:
    """Fills an empty database, all of it covered; gives the bytes that the bars take."""
    await storage.open()
    ((first,),) = pages(1, 1)
    covered = Covered(FIRST_MS, FIRST_MS + SERIES_BARS * MINUTE_MS, Reason.DATA)
    for number in range(1, series + 1):
        await storage.store(other_series(number), [first], [covered], at_ms=FIRST_MS)
    database = await asyncpg.connect(url)
    # An index is sooner made than kept.
    await database.execute("ALTER TABLE bar DROP CONSTRAINT bar_pkey")
    await database.execute(_FILL, FIRST_MS, MINUTE_MS, SERIES_BARS - 1, timeout=None)
    await database.execute("ALTER TABLE bar ADD PRIMARY KEY (series, t)", timeout=None)
    await database.execute("VACUUM ANALYZE", timeout=None)
    size: int = await database.fetchval("SELECT pg_total_relation_size('bar')")
    await database.close()
    return size


async def _bare_milliseconds(bare: asyncpg.Connection[asyncpg.Record], series: int, reads: int) -> float:
    dice = random.Random(1)  # noqa: S311
    started_s = time.perf_counter()
    for _ in range(reads):
        start_ms = FIRST_MS + dice.randrange(SERIES_BARS - ASKED) * MINUTE_MS
        end_ms = start_ms + SERIES_BARS * MINUTE_MS
        found = await bare.fetch(_READ, dice.randint(1, series), start_ms, end_ms, ASKED)
        if len([tuple(row) for row in found]) != ASKED:
            raise RuntimeError("Bars are missing.")
    return (time.perf_counter() - started_s) / reads * 1000
