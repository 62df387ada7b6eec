"""What `marketd check` finds in a PostgreSQL."""

from __future__ import annotations

import pytest
from postgres_stores import connected, opened
from scripted import INSTRUMENT, MINUTE, START, M, bar

from marketd.domain.coverage import Covered, Reason
from marketd.domain.instrument import Series
from marketd.storage.postgres.checkup import check_at
from marketd.storage.postgres.schema import MIGRATIONS

SERIES = Series(INSTRUMENT, MINUTE)
NAME = f"{INSTRUMENT.market}/{INSTRUMENT.provider}/{INSTRUMENT.symbol}@1m"
NEWEST = len(MIGRATIONS)


async def fill(url: str) -> None:
    covered = [Covered(START, START + 2 * M, Reason.DATA)]
    async with opened(url) as storage:
        await storage.store(SERIES, [bar(0), bar(1), bar(9)], covered, at_ms=START)
        await storage.store_ticks(INSTRUMENT, [(START, 1.0, 1.0, "", "")])


async def test_a_sound_database_is_told_with_what_there_is_in_it(url: str) -> None:
    await fill(url)
    facts, problems = await check_at(url)
    assert problems == []
    assert [*facts[1:2], *facts[-5:]] == [
        "no TimescaleDB",
        f"schema {NEWEST} of {NEWEST}",
        "1 series",
        "3 bars",
        "1 trades",
        "1 bars in ranges that are asked for again",
    ]
    async with opened(url) as storage:
        assert await storage.check() == (facts, problems)


async def test_an_empty_database_is_none_of_marketds_and_stays_empty(url: str) -> None:
    for _ in range(2):
        facts, problems = await check_at(url)
        assert f"schema 0 of {NEWEST}" in facts
        assert problems == ["It holds nothing of marketd's."]


@pytest.mark.parametrize(
    ("spoil", "problem"),
    [
        ("UPDATE marketd_schema SET version = 999", "It was made by a newer marketd: upgrade this one."),
        (
            "UPDATE bar SET t = t + 1 WHERE t = (SELECT max(t) FROM bar)",
            f"{NAME} has 1 bars off the grid of 1m.",
        ),
        ("UPDATE coverage SET reason = 'closed'", f"{NAME} has 2 bars where its coverage says"),
        ("UPDATE coverage SET range_end = range_start", "1 ranges of the coverage are empty"),
        ("DELETE FROM instrument", "The table tick has rows of 1 instrument that nothing names."),
        ("UPDATE series SET timeframe = '7x'", "@7x has no timeframe that is one."),
        (
            "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'job_by_kind'::regclass",
            "The index job_by_kind of job is not usable: REINDEX INDEX job_by_kind",
        ),
    ],
)
async def test_what_cannot_be_so_is_told(url: str, spoil: str, problem: str) -> None:
    await fill(url)
    async with connected(url) as connection:
        await connection.execute(spoil)
    _, told = await check_at(url)
    assert problem in "\n".join(told)
    assert len(told) == 1
