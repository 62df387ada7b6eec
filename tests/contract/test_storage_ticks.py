"""The contract of a store: the trades of an instrument, sentence by sentence, against every backend."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pages import EVER, opened
from scripted import INSTRUMENT, START

from marketd.domain.bar import Tick
from marketd.domain.coverage import Covered, Reason
from marketd.domain.errors import StorageFailed
from marketd.domain.instrument import Instrument
from marketd.domain.timerange import TimeRange
from marketd.storage import Storage

OTHER = Instrument("crypto", "test", "ETH/USD")
UNSTORABLE: Tick = (2**63, 1.0, 1.0, "buy", "")

TICKS = st.lists(
    st.tuples(
        st.integers(0, 6).map(lambda ms: START + ms),
        st.sampled_from([1.0, 1.5]),
        st.sampled_from([0.25, 2.0]),
        st.sampled_from(["buy", "sell", ""]),
        st.sampled_from(["", "", "7", "8"]),
    ),
    max_size=15,
).map(lambda ticks: sorted(ticks, key=lambda tick: tick[0]))


def tick(
    ms: int, trade_id: str = "", price: float = 100.0, size: float = 0.5, side: str = "buy"
) -> Tick:
    return (START + ms, price, size, side, trade_id)


async def every(storage: Storage, instrument: Instrument = INSTRUMENT) -> list[Tick]:
    return (await storage.read_ticks(instrument, EVER, limit=100_000)).ticks


async def test_trades_come_back_as_they_were_in_the_order_in_which_they_were_stored(
    database: Callable[[], Storage],
) -> None:
    ticks = [
        tick(0, "b"),
        tick(0, "a"),
        tick(0, price=0.1, side=""),
        tick(1, size=5e-324),
        tick(5, "x" * 99),
    ]
    async with opened(database) as storage:
        assert (await storage.store_ticks(INSTRUMENT, ticks)).ticks == ticks
        assert await every(storage) == ticks
    async with opened(database) as storage:
        assert await every(storage) == ticks


async def test_a_trade_with_an_id_is_stored_once_within_its_millisecond(storage: Storage) -> None:
    both = [tick(0, "1"), tick(0, "2")]
    assert (await storage.store_ticks(INSTRUMENT, [*both, tick(0, "1", price=2.0)])).ticks == both
    # Its id is what it is known by, whatever else is said of it later.
    new = (await storage.store_ticks(INSTRUMENT, [tick(0, "1", price=7.0), tick(1, "1")])).ticks
    assert new == [tick(1, "1")]
    assert await every(storage) == [tick(0, "1"), tick(0, "2"), tick(1, "1")]


async def test_equal_trades_without_an_id_are_as_many_as_they_are_in_a_batch(storage: Storage) -> None:
    batch = [tick(0), tick(0), tick(0, side="sell"), tick(1)]
    assert (await storage.store_ticks(INSTRUMENT, batch)).ticks == batch
    assert (await storage.store_ticks(INSTRUMENT, batch)).ticks == []
    assert (await storage.store_ticks(INSTRUMENT, [tick(0), tick(0), tick(0)])).ticks == [tick(0)]
    assert await every(storage) == [*batch[:3], tick(0), tick(1)]


@given(batches=st.lists(TICKS, max_size=4))
@settings(max_examples=40)
async def test_a_batch_stored_again_changes_nothing(
    new_database: Callable[[], Callable[[], Storage]], batches: Sequence[list[Tick]]
) -> None:
    async with opened(new_database()) as storage:
        for batch in batches:
            new = (await storage.store_ticks(INSTRUMENT, batch)).ticks
            stored = await every(storage)
            assert [one for one in new if one not in stored] == []
            assert (await storage.store_ticks(INSTRUMENT, batch)).ticks == []
            assert await every(storage) == stored


async def test_a_batch_that_cannot_be_stored_is_not_stored_at_all(storage: Storage) -> None:
    with pytest.raises(StorageFailed):
        await storage.store_ticks(INSTRUMENT, [tick(0), UNSTORABLE])
    assert await every(storage) == []
    assert (await storage.store_ticks(INSTRUMENT, [tick(0)])).ticks == [tick(0)]


async def test_instruments_are_told_apart(storage: Storage) -> None:
    names = [INSTRUMENT, OTHER, Instrument("a", "b", "c/d"), Instrument("a", "b/c", "d")]
    new = await asyncio.gather(
        *(storage.store_ticks(name, [tick(n, "1")]) for n, name in enumerate(names))
    )
    assert [added.ticks for added in new] == [[tick(n, "1")] for n in range(4)]
    for n, name in enumerate(names):
        assert await every(storage, name) == [tick(n, "1")]
    assert (await storage.store_ticks(INSTRUMENT, [])).ticks == []
    assert await every(storage, Instrument("no", "trades", "ever")) == []


@pytest.mark.parametrize("newest", [False, True])
async def test_a_read_gives_the_first_or_the_last_trades_of_a_half_open_span(
    storage: Storage, newest: bool
) -> None:
    ticks = [tick(ms // 2, str(ms)) for ms in range(20)]
    await storage.store_ticks(INSTRUMENT, ticks)
    inside = ticks[4:14]
    for limit in (0, 1, 3, 10, 50):
        read = await storage.read_ticks(
            INSTRUMENT, TimeRange(START + 2, START + 7), limit=limit, newest=newest
        )
        assert read.ticks == (inside[max(0, 10 - limit) :] if newest else inside[:limit])


async def test_old_trades_are_dropped_and_no_others(storage: Storage) -> None:
    many = [tick(ms, str(ms)) for ms in range(25_000)]
    await storage.store_ticks(INSTRUMENT, many)
    await storage.store_ticks(OTHER, [tick(9), tick(10)])
    assert await storage.drop_ticks(START + 10) == 11
    assert await storage.drop_ticks(START + 10) == 0
    assert await storage.drop_ticks(START + 24_999) == 24_989 + 1
    assert await every(storage) == many[-1:]
    assert await every(storage, OTHER) == []


def known(start: int, end: int, reason: Reason = Reason.DATA) -> Covered:
    return Covered(START + start, START + end, reason)


async def coverage(storage: Storage, span: TimeRange = EVER) -> list[Covered]:
    return (await storage.read_ticks(INSTRUMENT, span, limit=100)).coverage


async def test_trades_are_stored_with_what_they_prove_or_not_at_all(storage: Storage) -> None:
    await storage.store_ticks(INSTRUMENT, [tick(3)], [known(0, 5), known(7, 9, Reason.FEED_DOWN)])
    await storage.store_ticks(INSTRUMENT, [], [known(5, 8)])
    whole = [known(0, 8), known(8, 9, Reason.FEED_DOWN)]
    assert await coverage(storage) == whole
    assert await coverage(storage, TimeRange(START + 2, START + 4)) == [known(2, 4)]
    with pytest.raises(StorageFailed):
        await storage.store_ticks(INSTRUMENT, [UNSTORABLE], [known(20, 30)])
    assert await coverage(storage) == whole
    assert (await storage.read_ticks(OTHER, EVER, limit=1)).coverage == []
    # A page speaks of no more than it holds.
    await storage.store_ticks(INSTRUMENT, [tick(4), tick(6)])
    page = await storage.read_ticks(INSTRUMENT, EVER, limit=2)
    assert page[:2] == ([tick(3), tick(4)], [known(0, 5)])
    page = await storage.read_ticks(INSTRUMENT, EVER, limit=2, newest=True)
    assert page[:2] == ([tick(4), tick(6)], [known(4, 8), known(8, 9, Reason.FEED_DOWN)])


async def test_what_was_known_of_dropped_trades_goes_with_them(storage: Storage) -> None:
    await storage.store_ticks(INSTRUMENT, [tick(3)], [known(0, 5), known(6, 20)])
    assert await storage.drop_ticks(START + 8) == 1
    assert await coverage(storage) == [known(8, 20)]
    assert await storage.drop_ticks(START + 30) == 0
    assert await coverage(storage) == []
