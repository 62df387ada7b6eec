"""The contract of a store: jobs, and the list of what is stored, against every backend."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
from pages import EVER, SERIES, UNSTORABLE, data, opened, page, put
from scripted import INSTRUMENT, MINUTE, START

from marketd.domain.errors import StorageFailed, Superseded
from marketd.domain.instrument import Instrument, Series
from marketd.domain.timeframe import Timeframe
from marketd.storage import Job, Storage

JOB = Job("a", "backfill", "running", '{"next": 1}', START, START)


async def test_a_job_is_kept_until_it_is_deleted(database: Callable[[], Storage]) -> None:
    async with opened(database) as storage:
        assert await storage.jobs("backfill") == []
        await storage.save_job(JOB)
    async with opened(database) as storage:
        assert await storage.jobs("backfill") == [JOB]
        await storage.delete_job("no such job")
        await storage.delete_job("a")
        await storage.delete_job("a")
    async with opened(database) as storage:
        assert await storage.jobs("backfill") == []


async def test_a_job_that_is_saved_again_takes_the_place_of_what_it_was(storage: Storage) -> None:
    await storage.save_job(JOB)
    later = JOB._replace(state="done", body='{"😀": null}', updated_ms=START + 5)
    await storage.save_job(later)
    assert await storage.jobs("backfill") == [later]
    await storage.save_job(later._replace(kind="export"))
    assert await storage.jobs("backfill") == []
    assert await storage.jobs("export") == [later._replace(kind="export")]


async def test_jobs_of_a_kind_come_the_oldest_first(storage: Storage) -> None:
    jobs = [
        JOB._replace(id=name, created_ms=at) for name, at in (("c", 1), ("b", 2), ("a", 3), ("d", 3))
    ]
    for job in (jobs[2], jobs[0], jobs[3], jobs[1], JOB._replace(id="other", kind="other")):
        await storage.save_job(job)
    assert await storage.jobs("backfill") == jobs


LEASE_MS = 60_000


async def claimed(
    storage: Storage, *, now_ms: int = START, most: int = 9, lease_ms: int = LEASE_MS
) -> list[Job]:
    return await storage.claim_jobs("backfill", now_ms=now_ms, most=most, lease_ms=lease_ms)


async def test_a_due_job_is_claimed_by_one_at_a_time_the_longest_due_first(storage: Storage) -> None:
    due = [JOB._replace(id=name, due_ms=START - at) for name, at in (("a", 5), ("b", 3), ("c", 0))]
    later = JOB._replace(id="later", due_ms=START + 1)
    for job in (
        *reversed(due),
        later,
        JOB._replace(id="never"),
        JOB._replace(id="d", kind="e", due_ms=0),
    ):
        await storage.save_job(job)
    first = await claimed(storage, most=2)
    assert [job._replace(claim="") for job in first] == due[:2]
    assert all(job.claim for job in first)
    both = await asyncio.gather(claimed(storage), claimed(storage))
    assert sorted(map(len, both)) == [0, 1]
    assert await claimed(storage) == []
    assert [job.id for job in await claimed(storage, now_ms=START + 1)] == ["later"]


async def test_a_claim_goes_on_while_it_is_renewed_and_ends_with_a_save_without_a_lease(
    storage: Storage,
) -> None:
    await storage.save_job(JOB._replace(due_ms=START))
    (job,) = await claimed(storage)
    await storage.save_job(job._replace(body="{}"), lease_ms=LEASE_MS)
    assert await storage.job("a") == job._replace(body="{}")
    assert await claimed(storage) == []
    await storage.save_job(job)
    assert await storage.job("a") == job._replace(claim="")
    (again,) = await claimed(storage)
    assert again.claim != job.claim


async def test_whoever_has_lost_a_job_changes_nothing_of_it_any_more(storage: Storage) -> None:
    await storage.save_job(JOB._replace(due_ms=START))
    (lost,) = await claimed(storage, lease_ms=1)
    (taken,) = await until(lambda: claimed(storage))
    for lease_ms in (0, LEASE_MS):
        with pytest.raises(Superseded):
            await storage.save_job(lost._replace(state="done"), lease_ms=lease_ms)
    with pytest.raises(Superseded):
        await storage.save_job(JOB._replace(state="done"))
    assert await storage.job("a") == taken
    # Who looks first may take it away from whoever has it.
    await storage.save_job(taken._replace(state="paused", due_ms=None))
    with pytest.raises(Superseded):
        await storage.save_job(taken, lease_ms=LEASE_MS)
    await storage.delete_job("a")
    with pytest.raises(Superseded):
        await storage.save_job(taken, lease_ms=LEASE_MS)
    assert await storage.job("a") is None


async def until(ask: Callable[[], Awaitable[list[Job]]]) -> list[Job]:
    async with asyncio.timeout(20):
        while not (found := await ask()):  # noqa: ASYNC110 - a database has no event
            await asyncio.sleep(0.01)
        return found


async def test_every_stored_series_is_listed_in_the_order_of_first_writes(
    database: Callable[[], Storage],
) -> None:
    names = [
        SERIES,
        Series(INSTRUMENT, Timeframe.parse("1M"), "adjustment=split"),
        Series(Instrument("z", "a", "é/'\n"), MINUTE),
        Series(Instrument("a", "a", "a"), MINUTE),
    ]
    async with opened(database) as storage:
        assert await storage.series_list() == []
        await put(storage, page(0, 1), series=names[0])
        await put(storage, [], data(0, 1), series=names[1])
        await storage.read(Series(INSTRUMENT, MINUTE, "only read"), EVER, limit=1)
        for name in (*names[2:], *names[:2]):
            await put(storage, page(0, 2), series=name)
        with pytest.raises(StorageFailed):
            await put(storage, [UNSTORABLE], series=Series(INSTRUMENT, MINUTE, "not stored"))
        assert await storage.series_list() == names
    async with opened(database) as storage:
        assert await storage.series_list() == names
