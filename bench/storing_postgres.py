"""Storing pages of 1,000 new bars durably in PostgreSQL, in rows a second.

PostgresStorage, each page with the coverage that it proves, against bare asyncpg that upserts the same
arrays into the same table: on one server of its own, which flushes every commit to disk.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path

import asyncpg

from bench.report import Row, alternate, faster
from bench.series import PAGE
from bench.storing import batches, stored_a_second
from marketd.domain.bar import Bar
from marketd.storage.postgres import PostgresStorage
from tests.servers import postgres

_UPSERT = """
    INSERT INTO bare (series, t, open, high, low, close, volume)
    SELECT 1, * FROM unnest(
        $1::bigint[], $2::float8[], $3::float8[], $4::float8[], $5::float8[], $6::float8[])
    ON CONFLICT (series, t) DO UPDATE SET open = excluded.open, high = excluded.high,
        low = excluded.low, close = excluded.close, volume = excluded.volume
"""


def rows(scratch: Path, quick: bool) -> Iterator[Row]:
    rounds, page_count = (3, 40) if quick else (7, 100)
    with postgres.running(durable=True) as server, asyncio.Runner() as runner:
        storage = PostgresStorage(server.url())
        runner.run(storage.open())
        bare = runner.run(asyncpg.connect(server.url()))
        runner.run(bare.execute("CREATE TABLE bare (LIKE bar INCLUDING ALL)"))
        ours, theirs = batches(page_count), batches(page_count)
        versus = alternate(
            lambda: runner.run(stored_a_second(storage, next(ours))),
            lambda: runner.run(_upserted_a_second(bare, next(theirs))),
            rounds,
        )
        runner.run(bare.close())
        runner.run(storage.close())
    yield faster(
        "storing bars, PostgreSQL, durable", "bare asyncpg unnest upsert", versus, "rows/s", 0.7
    )


async def _upserted_a_second(bare: asyncpg.Connection[asyncpg.Record], batch: list[list[Bar]]) -> float:
    started_s = time.perf_counter()
    for page in batch:
        await bare.execute(_UPSERT, *zip(*page, strict=True))
    return len(batch) * PAGE / (time.perf_counter() - started_s)
