"""What PostgreSQL says of the store's statements: none of them looks through a table."""

from __future__ import annotations

import re

from postgres_stores import connected, opened
from scripted import INSTRUMENT, MINUTE, START, M, bar

from marketd.domain.coverage import Covered, Reason
from marketd.domain.instrument import Series
from marketd.domain.timerange import MAX_MS, MIN_MS, TimeRange
from marketd.storage.postgres import PostgresStorage
from marketd.storage.postgres.profile import STATEMENTS, VIEW_STATEMENTS, profile
from marketd.storage.records import Job, QueryPlan

SERIES = Series(INSTRUMENT, MINUTE)
EVER = TimeRange(MIN_MS, MAX_MS)
# These are part of others, or belong to writing.
UNTIMED = {
    "aggregates read",
    "aggregates lock",
    "names lock series",
    "notes channel",
    "notes say",
    "names lock instrument",
    "ticks read",
}
BARS = 12_000


async def fill(storage: PostgresStorage) -> None:
    pieces = [Covered(START + n * M, START + n * M + 1, Reason.DATA) for n in range(0, BARS, 2)]
    await storage.store(SERIES, [bar(n) for n in range(BARS)], pieces, at_ms=START)
    await storage.store_ticks(INSTRUMENT, [(START + n, 1.0, 1.0, "", "") for n in range(BARS)])
    await storage.save_job(Job("1", "backfill", "done", "{}", 1, 1))
    await storage.refresh()


def scanning(plans: list[QueryPlan]) -> list[str]:
    return [plan.name for plan in plans if plan.scans]


async def test_no_statement_looks_through_a_table_and_every_one_that_only_reads_is_run(url: str) -> None:
    async with opened(url) as storage:
        assert len(await storage.profile()) == len(STATEMENTS)
        await fill(storage)
        plans = await storage.profile()
        # Nothing that writes was run.
        assert len((await storage.read(SERIES, EVER, limit=BARS + 1)).bars) == BARS
    assert {plan.statement for plan in plans} == {" ".join(text.split()) for text in STATEMENTS.values()}
    assert scanning(plans) == []
    (first,) = [plan for plan in plans if plan.name == "bars first bars"]
    assert [step for step in first.steps if re.search(r"bar_pkey.* \(1,000 rows, \d+ pages\)", step)]
    untimed = {plan.name for plan in plans if plan.took_ms is None}
    assert {name for name in untimed if STATEMENTS[name].split()[0] == "SELECT"} == UNTIMED


async def test_there_is_a_way_to_the_rows_of_every_table_also_of_those_that_are_small(url: str) -> None:
    async with opened(f"{url}?enable_seqscan=off") as storage:
        await fill(storage)
        assert scanning(await profile(storage._opened(), views=False, small=0)) == []


async def test_who_has_lost_an_index_is_told_what_is_looked_through(url: str) -> None:
    async with opened(url) as storage, connected(url) as connection:
        await fill(storage)
        await connection.execute("ALTER TABLE bar DROP CONSTRAINT bar_pkey")
        found = {plan.name: plan.scans for plan in await storage.profile() if plan.scans}
    assert found.keys() >= {"bars first bars", "bars last bars and coverage", "aggregates extent"}
    assert any("Seq Scan on bar (" in step for step in found["aggregates extent"])
    assert "cannot be run" in found["bars upsert"][0]
    assert not [name for name in found if not name.startswith(("bars", "aggregates", "notes"))]


async def test_the_views_of_timescaledb_are_among_them(timescale_url: str) -> None:
    async with connected(timescale_url) as connection:
        await connection.execute("CREATE SCHEMA profiled")
    url = f"{timescale_url}&search_path=profiled"
    async with opened(url, connections=1) as storage:
        await fill(storage)
        plans = await storage.profile()
    assert len(plans) == len(STATEMENTS) + len(VIEW_STATEMENTS)
    assert scanning(plans) == []
    assert not [plan.name for plan in plans if plan.name in VIEW_STATEMENTS and plan.took_ms is None]
