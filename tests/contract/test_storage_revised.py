"""Which bars of a series have changed since somebody read it."""

from __future__ import annotations

from scripted import INSTRUMENT, MINUTE, START, M, bar

from marketd.domain.coverage import Covered, Reason
from marketd.domain.instrument import Series
from marketd.storage import Storage
from marketd.storage.records import Revised, Revision

SERIES = Series(INSTRUMENT, MINUTE)
ANY = 1_000


def known(first: int, end: int, reason: Reason = Reason.DATA) -> Covered:
    return Covered(START + first * M, START + end * M, reason)


async def put(storage: Storage, *bars: tuple[int, float], covered: Covered | None = None) -> None:
    page = [bar(minute, close) for minute, close in bars]
    await storage.store(SERIES, page, [covered] if covered else [], at_ms=START)


async def test_a_series_of_which_nothing_has_changed_has_no_number(storage: Storage) -> None:
    assert await storage.revised(SERIES, after=0, limit=ANY) == Revised(0, [])
    await put(storage, (0, 1.0), (1, 1.0), covered=known(0, 2))
    await put(storage, (1, 1.0), (2, 1.0), covered=known(1, 3))
    assert await storage.revised(SERIES, after=0, limit=ANY) == Revised(0, [])


async def test_what_has_changed_is_given_as_it_is_now_with_its_revision(storage: Storage) -> None:
    await put(storage, *((minute, 1.0) for minute in range(600)))
    await put(storage, (3, 2.0), (500, 2.0))
    await put(storage, (3, 3.0))
    both = [Revision(bar(3, 3.0), 2), Revision(bar(500, 2.0), 1)]
    assert await storage.revised(SERIES, after=0, limit=ANY) == Revised(2, both)
    assert await storage.revised(SERIES, after=1, limit=ANY) == Revised(2, both[:1])
    assert await storage.revised(SERIES, after=2, limit=ANY) == Revised(2, [])


async def test_a_bar_that_is_new_where_something_was_known_is_a_change(storage: Storage) -> None:
    await put(storage, (0, 1.0), (2, 1.0), covered=known(0, 3))
    await put(storage, covered=known(5, 6, Reason.UNRECOVERABLE))
    # Nobody has said anything of what lies between.
    await put(storage, (1, 7.0), (3, 7.0), (4, 7.0), (5, 7.0), covered=known(0, 6))
    late = [Revision(bar(1, 7.0), 0), Revision(bar(5, 7.0), 0)]
    assert await storage.revised(SERIES, after=0, limit=ANY) == Revised(1, late)
    await put(storage, (1, 8.0))
    changed = Revised(2, [Revision(bar(1, 8.0), 1)])
    assert await storage.revised(SERIES, after=1, limit=ANY) == changed


async def test_of_many_the_latest_are_given(storage: Storage) -> None:
    await put(storage, *((minute, 1.0) for minute in range(5)))
    await put(storage, *((minute, 2.0) for minute in range(5)))
    await put(storage, (1, 3.0))
    assert await storage.revised(SERIES, after=0, limit=3) == Revised(
        2, [Revision(bar(1, 3.0), 2), Revision(bar(3, 2.0), 1), Revision(bar(4, 2.0), 1)]
    )


async def test_every_series_has_numbers_of_its_own(storage: Storage) -> None:
    other = Series(INSTRUMENT, MINUTE, "adjustment=raw")
    await put(storage, (0, 1.0))
    await put(storage, (0, 2.0))
    await storage.store(other, [bar(0, 1.0)], [], at_ms=START)
    await storage.store(other, [bar(0, 2.0)], [], at_ms=START)
    assert await storage.revised(other, after=0, limit=ANY) == Revised(1, [Revision(bar(0, 2.0), 1)])
