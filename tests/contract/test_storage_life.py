"""The contract of a store: opening, closing, and what is there the next time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from pages import NAN, NOTHING, SERIES, data, everything, minutes, opened, page, put

from marketd.domain.errors import StorageFailed
from marketd.storage import Storage, Stored, StoredBars


async def test_the_second_opening_finds_everything(database: Callable[[], Storage]) -> None:
    async with opened(database) as storage:
        await put(storage, page(0, 100), data(0, 50), data(60, 100))
        await put(storage, page(3, 4, NAN))
    async with opened(database) as storage:
        bars, coverage = await everything(storage)
        assert repr(bars) == repr([*page(0, 3), *page(3, 4, NAN), *page(4, 100)])
        assert coverage == [data(0, 50), data(60, 100)]
        assert [one.rev for one in (await put(storage, page(2, 5, 1.0))).revised] == [1, 2, 1]


async def test_a_store_that_is_closed_can_be_opened_again(database: Callable[[], Storage]) -> None:
    storage = database()
    for n in range(3):
        await storage.open()
        await put(storage, page(n, n + 1))
        assert (await everything(storage)).bars == page(0, n + 1)
        await storage.close()


async def test_close_is_allowed_before_opening_and_twice(database: Callable[[], Storage]) -> None:
    storage = database()
    await storage.close()
    await storage.open()
    await asyncio.gather(storage.close(), storage.close())
    await storage.close()
    async with opened(database):
        pass


async def test_close_ends_what_waits_and_each_write_was_done_or_failed(
    database: Callable[[], Storage],
) -> None:
    storage = database()
    await storage.open()
    early = [asyncio.create_task(put(storage, page(n, n + 1), data(n, n + 1))) for n in range(50)]
    reads = [asyncio.create_task(everything(storage)) for _ in range(5)]
    await asyncio.sleep(0)
    late = [asyncio.create_task(put(storage, page(n, n + 1), data(n, n + 1))) for n in range(50, 80)]
    async with asyncio.timeout(30):
        await asyncio.gather(storage.close(), storage.close())
        outcomes = await asyncio.gather(*early, *late, return_exceptions=True)
        await asyncio.gather(*reads, return_exceptions=True)
    async with opened(database) as again:
        for n, outcome in enumerate(outcomes):
            assert isinstance(outcome, Stored | StorageFailed)
            stored = await again.read(SERIES, minutes(n, n + 1), limit=1)
            assert stored == (
                StoredBars(page(n, n + 1), [data(n, n + 1)]) if isinstance(outcome, Stored) else NOTHING
            )


async def test_a_store_that_is_not_open_says_so(database: Callable[[], Storage]) -> None:
    storage = database()
    for _ in range(2):
        with pytest.raises(StorageFailed, match="not open"):
            await everything(storage)
        with pytest.raises(StorageFailed, match="not open"):
            await put(storage, page(0, 1), data(0, 1))
        await storage.open()
        await storage.close()
    async with opened(database) as again:
        assert await everything(again) == NOTHING
