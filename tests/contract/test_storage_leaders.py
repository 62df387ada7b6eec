"""The contract of a store that several processes share: whoever led a series before writes nothing."""

from __future__ import annotations

import asyncio

import pytest
from pages import SERIES, data, everything
from scripted import INSTRUMENT, MINUTE, START, bar

from marketd.domain.errors import Superseded, Unsupported
from marketd.domain.instrument import Series
from marketd.storage import Storage, Stored

SHARED = pytest.mark.parametrize("new_database", ["postgres", "timescale"], indirect=True)
ALONE = pytest.mark.parametrize("new_database", ["sqlite"], indirect=True)


async def put(storage: Storage, minute: int, fence: int | None) -> Stored:
    covered = [data(minute, minute + 1)]
    return await storage.store(SERIES, [bar(minute)], covered, at_ms=START, fence=fence)


@SHARED
async def test_every_fence_is_greater_than_the_one_before(storage: Storage) -> None:
    fences = [await storage.lead(SERIES) for _ in range(3)]
    assert fences == sorted(set(fences))


@SHARED
async def test_a_leader_that_was_superseded_writes_nothing(storage: Storage) -> None:
    earlier = await storage.lead(SERIES)
    await put(storage, 0, earlier)
    later = await storage.lead(SERIES)
    with pytest.raises(Superseded):
        await put(storage, 1, earlier)
    await put(storage, 2, later)
    assert (await everything(storage)).bars == [bar(0), bar(2)]


@SHARED
async def test_of_many_writes_at_once_only_the_superseded_one_fails(storage: Storage) -> None:
    earlier, later = await storage.lead(SERIES), await storage.lead(SERIES)
    writes = [put(storage, minute, earlier if minute == 2 else later) for minute in range(5)]
    outcomes = await asyncio.gather(*writes, return_exceptions=True)
    assert [isinstance(outcome, Superseded) for outcome in outcomes] == [
        minute == 2 for minute in range(5)
    ]
    assert (await everything(storage)).bars == [bar(minute) for minute in (0, 1, 3, 4)]


@SHARED
async def test_who_stores_without_a_fence_is_no_leader_and_not_held_up(storage: Storage) -> None:
    await storage.lead(SERIES)
    assert await put(storage, 0, None) == Stored(1, [])


@SHARED
async def test_each_series_has_a_leader_of_its_own(storage: Storage) -> None:
    fence = await storage.lead(SERIES)
    await storage.lead(Series(INSTRUMENT, MINUTE, "another"))
    assert await put(storage, 0, fence) == Stored(1, [])


@SHARED
async def test_a_database_keeps_an_identity_of_its_own(storage: Storage) -> None:
    identity = storage.identity
    await storage.close()
    await storage.open()
    assert storage.identity == identity != ""


@ALONE
async def test_a_database_for_one_process_has_no_leaders(storage: Storage) -> None:
    assert storage.identity == ""
    with pytest.raises(Unsupported, match="one owner"):
        await storage.lead(SERIES)
