"""The contract of a store that several processes share: whoever led a series before writes nothing."""

from __future__ import annotations

import asyncio

import pytest
from pages import SERIES, data, everything
from scripted import INSTRUMENT, MINUTE, START, M, bar

from marketd.domain.bar import Tick
from marketd.domain.errors import Superseded, Unsupported
from marketd.domain.instrument import Instrument, Series
from marketd.domain.timerange import TimeRange
from marketd.storage import Storage, Stored

SHARED = pytest.mark.parametrize("new_database", ["postgres", "timescale"], indirect=True)
ALONE = pytest.mark.parametrize("new_database", ["sqlite"], indirect=True)


OTHER = Instrument("crypto", "test", "ETH/USD")
SPAN = TimeRange(START, START + M)
TRADE: Tick = (START, 1.0, 2.0, "buy", "1")


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


@SHARED
async def test_a_leader_of_trades_that_was_superseded_stores_none(storage: Storage) -> None:
    earlier = await storage.lead(INSTRUMENT)
    assert (await storage.store_ticks(INSTRUMENT, [TRADE], fence=earlier)).ticks == [TRADE]
    later = await storage.lead(INSTRUMENT)
    assert later > earlier
    lost = (START + 1, *TRADE[1:])
    with pytest.raises(Superseded):
        await storage.store_ticks(INSTRUMENT, [lost], [data(0, 1)], fence=earlier)
    kept = (START + 2, *TRADE[1:])
    await storage.store_ticks(INSTRUMENT, [kept], fence=later)
    await storage.store_ticks(OTHER, [lost])
    stored = await storage.read_ticks(INSTRUMENT, SPAN, limit=9)
    assert (stored.ticks, stored.coverage) == ([TRADE, kept], [])


@SHARED
async def test_trades_are_numbered_as_they_are_stored(storage: Storage) -> None:
    early, middle, late = [(START + ms, *TRADE[1:4], str(ms)) for ms in (1, 2, 3)]
    first = await storage.store_ticks(INSTRUMENT, [middle])
    await storage.store_ticks(OTHER, [TRADE])
    second = await storage.store_ticks(INSTRUMENT, [early, middle, late])
    again = await storage.store_ticks(INSTRUMENT, [early, middle, late])
    assert first.before < first.number == second.before < second.number == again.before == again.number
    assert (await storage.read_ticks(INSTRUMENT, SPAN, limit=0)).number == second.number

    async def after(number: int, until: int, limit: int = 9) -> list[Tick]:
        found = await storage.ticks_after(INSTRUMENT, number, until=until, limit=limit)
        assert all(number < one.number <= until for one in found)
        return [one.tick for one in found]

    assert await after(first.before, second.number) == [middle, early, late]
    assert await after(first.before, second.number, limit=2) == [middle, early]
    assert await after(first.before, first.number) == [middle]
    assert await after(first.number, second.number) == [early, late]
    assert await after(second.number, second.number) == []
    assert await storage.ticks_after(Instrument("no", "trades", "ever"), 0, until=9, limit=9) == []


@ALONE
async def test_a_database_for_one_process_has_no_leaders(storage: Storage) -> None:
    assert storage.identity == ""
    for what in (SERIES, INSTRUMENT):
        with pytest.raises(Unsupported, match="one owner"):
            await storage.lead(what)
    with pytest.raises(Unsupported, match="one owner"):
        await storage.ticks_after(INSTRUMENT, 0, until=1, limit=1)
