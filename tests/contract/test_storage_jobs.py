"""The contract of a store: jobs, and the list of what is stored, against every backend."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from pages import EVER, SERIES, UNSTORABLE, data, opened, page, put
from scripted import INSTRUMENT, MINUTE, START

from marketd.domain.errors import StorageFailed
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
