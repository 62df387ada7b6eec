"""The contract of a store: writing and reading, sentence by sentence, against every backend."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pages import EVER, NAN, NOTHING, SERIES, UNSTORABLE, data, everything, minutes, opened, page, put
from scripted import INSTRUMENT, MINUTE, START, M, bar

from marketd.domain.bar import Bar, Value, select
from marketd.domain.coverage import Covered, Reason
from marketd.domain.errors import StorageFailed
from marketd.domain.instrument import Instrument, Series
from marketd.domain.timeframe import Timeframe
from marketd.domain.timerange import MAX_MS, MIN_MS
from marketd.storage import Storage, Stored, StoredBars
from marketd.storage.records import Revision

MINUTES = st.integers(0, 40)
STATEMENTS = st.builds(
    data,
    MINUTES,
    MINUTES,
    st.sampled_from([reason for reason in Reason if reason is not Reason.PENDING]),
)
VALUES = st.one_of(st.none(), st.floats().map(lambda value: value + 0.0))  # -0.0 is stored as 0.0


# Values


@given(values=st.lists(st.tuples(*[VALUES] * 5), max_size=20))
@settings(max_examples=50)
async def test_every_value_comes_back_exactly(
    new_database: Callable[[], Callable[[], Storage]], values: list[tuple[Value, ...]]
) -> None:
    bars: list[Bar] = [(START + index * M, *row) for index, row in enumerate(values)]  # type: ignore[misc]
    async with opened(new_database()) as storage:
        await put(storage, bars)
        # By repr, for which NaN is NaN, None is None and every float has digits of its own.
        assert repr((await everything(storage)).bars) == repr(bars)


@pytest.mark.parametrize("value", [None, NAN, math.inf, -math.inf, 5e-324, 1.7976931348623157e308, 0.1])
async def test_a_value_of_any_kind_arrives_where_plain_ones_are(storage: Storage, value: Value) -> None:
    odd: Bar = (START + M, value, value, value, value, value)
    await put(storage, [bar(0), bar(2)])
    assert await put(storage, [odd]) == Stored(1, [])
    assert repr((await everything(storage)).bars) == repr([bar(0), odd, bar(2)])


async def test_the_first_and_the_last_time_there_is_are_stored(storage: Storage) -> None:
    bars: list[Bar] = [(MIN_MS, 1.0, 1.0, 1.0, 1.0, 1.0), (MAX_MS - M, 1.0, 1.0, 1.0, 1.0, 1.0)]
    ever = Covered(*EVER, Reason.DATA)
    await put(storage, bars, ever)
    assert await everything(storage) == StoredBars(bars, [ever])


# Writing


async def test_bars_and_what_they_prove_are_there_when_store_returns(storage: Storage) -> None:
    assert await put(storage, page(0, 3), data(0, 5)) == Stored(3, [])
    assert await everything(storage) == StoredBars(page(0, 3), [data(0, 5)])


async def test_whoever_stores_says_what_the_bars_prove(storage: Storage) -> None:
    await put(storage, page(0, 3))
    assert await everything(storage) == StoredBars(page(0, 3), [])
    await put(storage, [], data(10, 20))
    assert await everything(storage) == StoredBars(page(0, 3), [data(10, 20)])
    assert await put(storage, []) == Stored(0, [])
    assert await everything(storage) == StoredBars(page(0, 3), [data(10, 20)])


@pytest.mark.parametrize("close", [101.0, None, NAN, math.inf])
async def test_the_same_bars_stored_again_change_nothing(storage: Storage, close: Value) -> None:
    await put(storage, page(0, 3, close), data(0, 3))
    for _ in range(3):
        assert await put(storage, page(0, 3, close), data(0, 3)) == Stored(0, [])
    bars, coverage = await everything(storage)
    assert repr(bars) == repr(page(0, 3, close))
    assert coverage == [data(0, 3)]
    # Had any of these counted as a change, this would not be the first.
    assert (await put(storage, page(0, 1, 7.0))).revised == [Revision(page(0, 1, 7.0)[0], 1)]


async def test_a_bar_that_differs_replaces_the_old_one_as_its_next_revision(storage: Storage) -> None:
    await put(storage, page(0, 3))
    for rev, close in enumerate([1.0, None, NAN, -math.inf, 100.0], start=1):
        (changed,) = page(1, 2, close)
        assert repr(await put(storage, [changed])) == repr(Stored(0, [Revision(changed, rev)]))
        assert repr((await everything(storage)).bars) == repr([*page(0, 1), changed, *page(2, 3)])
    # The bars beside it were never changed.
    assert [one.rev for one in (await put(storage, page(0, 3, 2.0))).revised] == [1, 6, 1]


async def test_a_page_of_old_changed_and_new_bars_says_which_are_which(storage: Storage) -> None:
    await put(storage, page(10, 20))
    inserted, revised, _ = await put(storage, [*page(5, 12), *page(12, 14, 50.0), *page(14, 23)])
    assert inserted == 5 + 3
    assert revised == [Revision(changed, 1) for changed in page(12, 14, 50.0)]
    assert (await everything(storage)).bars == [*page(5, 12), *page(12, 14, 50.0), *page(14, 23)]


async def test_a_page_that_cannot_be_stored_is_not_stored_at_all(storage: Storage) -> None:
    await put(storage, page(0, 2), data(0, 2))
    with pytest.raises(StorageFailed):
        await put(storage, [*page(0, 5, 7.0), UNSTORABLE], data(0, 5))
    assert await everything(storage) == StoredBars(page(0, 2), [data(0, 2)])


async def test_a_write_that_fails_among_many_costs_only_itself(storage: Storage) -> None:
    new = Series(INSTRUMENT, MINUTE, "never stored before")
    pages = [page(10 * n, 10 * n + 5) for n in range(20)]
    pages[7] = [*pages[7], UNSTORABLE]
    writes = [put(storage, bars, data(10 * n, 10 * n + 10)) for n, bars in enumerate(pages)]
    outcomes = await asyncio.gather(
        *writes,
        put(storage, [UNSTORABLE], Covered(*EVER, Reason.DATA), series=new),
        return_exceptions=True,
    )
    failed = [n for n, outcome in enumerate(outcomes) if isinstance(outcome, StorageFailed)]
    assert failed == [7, 20]
    assert [outcome for n, outcome in enumerate(outcomes) if n not in failed] == [Stored(5, [])] * 19
    bars, coverage = await everything(storage)
    assert bars == [one for n, bars in enumerate(pages) if n != 7 for one in bars]
    assert coverage == [data(0, 70), data(80, 200)]
    assert await everything(storage, new) == NOTHING
    # A series whose first write failed takes the next.
    await put(storage, page(0, 1), series=new)
    assert (await everything(storage, new)).bars == page(0, 1)


async def test_writes_at_once_to_one_series_all_arrive(storage: Storage) -> None:
    await asyncio.gather(*(put(storage, page(n, n + 3), data(n, n + 3)) for n in range(100)))
    assert await everything(storage) == StoredBars(page(0, 102), [data(0, 102)])


@pytest.mark.parametrize("turns", range(6))
async def test_a_cancelled_write_is_there_whole_or_not_at_all_and_the_store_goes_on(
    storage: Storage, turns: int
) -> None:
    writes = [
        asyncio.create_task(put(storage, page(10 * n, 10 * n + 5), data(10 * n, 10 * n + 6)))
        for n in range(20)
    ]
    for _ in range(turns):
        await asyncio.sleep(0)
    for write in writes[::2]:
        write.cancel()
    outcomes = await asyncio.gather(*writes, return_exceptions=True)
    assert all(isinstance(outcome, Stored) for outcome in outcomes[1::2])
    assert await put(storage, page(500, 501), data(500, 501)) == Stored(1, [])
    for n, outcome in enumerate(outcomes):
        span = minutes(10 * n, 10 * n + 10)
        stored = await storage.read(SERIES, span, limit=100)
        whole = StoredBars(page(10 * n, 10 * n + 5), [data(10 * n, 10 * n + 6)])
        assert stored == whole or (stored == NOTHING and not isinstance(outcome, Stored))


async def test_a_reader_never_sees_half_a_write(storage: Storage) -> None:
    await put(storage, page(0, 50, 0.0), data(0, 50))

    async def write() -> None:
        for n in range(1, 30):
            await put(storage, page(0, 50 + n, float(n)), data(0, 50 + n))

    writing = asyncio.create_task(write())
    seen = set()
    while not writing.done():
        for bars, coverage in await asyncio.gather(*(everything(storage) for _ in range(3))):
            (close,) = {one[4] for one in bars}
            assert coverage == [Covered(bars[0][0], bars[-1][0] + M, Reason.DATA)]
            assert len(bars) == 50 + (close or 0)
            seen.add(close)
    await writing
    assert len(seen) > 1


# Series


def hostile_series() -> list[Series]:
    """Names that something between here and the disk might take for one another."""
    symbols = [
        "BTC/USD",
        "btc/usd",
        "BTC/USD ",
        " BTC/USD",
        "BTC/USD\n",
        "",
        "'",
        "''",
        '"',
        "\\",
        "\\n",
        "%",
        "_",
    ]
    symbols += [
        "'; DROP TABLE bar; --",
        "?",
        "$1",
        ":symbol",
        "{}",
        "NULL",
        "None",
        "NaN",
        "0",
        "00",
        "1e3",
        "1000",
    ]
    symbols += [
        "é",
        "e\u0301",
        "ß",
        "ss",
        "SS",
        "İ",
        "i",
        "Ａ",
        "A",
        "🜁",
        "a\u200bb",
        "ab",
        "x" * 5_000,
        "x" * 5_001,
    ]
    return [
        *(SERIES._replace(instrument=INSTRUMENT._replace(symbol=symbol)) for symbol in symbols),
        SERIES._replace(instrument=INSTRUMENT._replace(market="us_equity")),
        SERIES._replace(instrument=INSTRUMENT._replace(provider="other")),
        SERIES._replace(timeframe=Timeframe.parse("1M")),
        SERIES._replace(timeframe=Timeframe.parse("60s")),
        SERIES._replace(variant="adjustment=split"),
        SERIES._replace(variant="adjustment=Split"),
        Series(Instrument("a", "b", "c/d"), MINUTE),
        Series(Instrument("a", "b/c", "d"), MINUTE),
        Series(Instrument("a/b", "c", "d"), MINUTE),
        Series(Instrument("a", "b", "c"), MINUTE, "d"),
        Series(Instrument("a", "b", "c?d"), MINUTE),
    ]


async def test_series_are_told_apart_by_every_field_of_their_name(
    database: Callable[[], Storage],
) -> None:
    pages = {series: page(n, n + 1, float(n)) for n, series in enumerate(hostile_series())}
    async with opened(database) as storage:
        await asyncio.gather(*(put(storage, bars, series=series) for series, bars in pages.items()))
        for series, bars in pages.items():
            assert (await everything(storage, series)).bars == bars
    async with opened(database) as storage:
        for series, bars in pages.items():
            assert (await everything(storage, series)).bars == bars


async def test_an_unknown_series_is_empty_before_and_after_it_is_asked_for(storage: Storage) -> None:
    for series in (SERIES, Series(INSTRUMENT, MINUTE, "other"), SERIES):
        assert await everything(storage, series) == NOTHING
        assert await storage.read(series, EVER, limit=0, newest=True) == NOTHING


# Reading


@given(
    stored=st.sets(MINUTES),
    start=MINUTES,
    end=MINUTES,
    limit=st.integers(0, 45),
    newest=st.booleans(),
)
@settings(max_examples=60)
async def test_a_read_gives_the_first_or_the_last_bars_of_a_half_open_span(
    new_database: Callable[[], Callable[[], Storage]],
    stored: set[int],
    start: int,
    end: int,
    limit: int,
    newest: bool,
) -> None:
    bars = [bar(minute) for minute in sorted(stored)]
    span = minutes(start, end)
    inside = select(bars, since=span.start_ms, before=max(span))
    wanted = inside[max(0, len(inside) - limit) :] if newest else inside[:limit]
    async with opened(new_database()) as storage:
        await put(storage, bars)
        read = await storage.read(SERIES, span, limit=limit, newest=newest)
        assert read.bars == ([] if span.is_empty else wanted)


@given(
    writes=st.lists(st.lists(STATEMENTS, max_size=4), max_size=8),
    start=MINUTES,
    end=MINUTES,
)
@settings(max_examples=60)
async def test_coverage_says_of_every_moment_the_newest_proof_or_else_the_newest_word(
    new_database: Callable[[], Callable[[], Storage]],
    writes: list[list[Covered]],
    start: int,
    end: int,
) -> None:
    moments: dict[int, Reason] = {}
    for one in (one for write in writes for one in write):
        for t in range(one.start_ms, one.end_ms, M):
            if one.reason.is_proof or not (t in moments and moments[t].is_proof):
                moments[t] = one.reason
    span = minutes(start, end)
    async with opened(new_database()) as storage:
        for write in writes:
            await put(storage, [], *write)
        for asked in (EVER, span):
            coverage = (await storage.read(SERIES, asked, limit=5)).coverage
            said = {t: one.reason for one in coverage for t in range(one.start_ms, one.end_ms, M)}
            assert said == {t: reason for t, reason in moments.items() if asked[0] <= t < asked[1]}
            # In the fewest ranges, which never overlap.
            for one, other in pairwise(coverage):
                assert one.end_ms < other.start_ms or (
                    one.end_ms == other.start_ms and one.reason is not other.reason
                )


async def test_ranges_that_touch_become_one_and_ranges_a_moment_apart_do_not(storage: Storage) -> None:
    def proofs(*ends: tuple[int, int]) -> list[Covered]:
        return [Covered(*pair, Reason.DATA) for pair in ends]

    await put(storage, [], *proofs((100, 200), (300, 400), (401, 500)))
    assert (await everything(storage)).coverage == proofs((100, 200), (300, 400), (401, 500))
    await put(storage, [], *proofs((200, 300)))
    assert (await everything(storage)).coverage == proofs((100, 400), (401, 500))
    await put(storage, [], *proofs((400, 401), (50, 60)))
    assert (await everything(storage)).coverage == proofs((50, 60), (100, 500))


async def test_ranges_that_touch_for_different_reasons_stay_two(storage: Storage) -> None:
    await put(storage, [], data(0, 10), data(10, 20, Reason.CLOSED))
    assert (await everything(storage)).coverage == [data(0, 10), data(10, 20, Reason.CLOSED)]
    await put(storage, [], data(5, 15, Reason.NO_TRADES))
    assert (await everything(storage)).coverage == [
        data(0, 5),
        data(5, 15, Reason.NO_TRADES),
        data(15, 20, Reason.CLOSED),
    ]


@pytest.mark.parametrize("reason", [Reason.FEED_DOWN, Reason.UNRECOVERABLE])
@pytest.mark.parametrize("proof", [Reason.DATA, Reason.NO_TRADES, Reason.CLOSED])
async def test_what_is_no_proof_is_told_until_there_is_one_and_never_replaces_it(
    storage: Storage, reason: Reason, proof: Reason
) -> None:
    await put(storage, [], data(0, 10, reason))
    assert (await everything(storage)).coverage == [data(0, 10, reason)]
    await put(storage, [], data(4, 6, proof))
    proven = [data(0, 4, reason), data(4, 6, proof), data(6, 10, reason)]
    assert (await everything(storage)).coverage == proven
    await put(storage, [], data(0, 10, reason))
    assert (await everything(storage)).coverage == proven


async def test_a_limit_of_zero_reads_the_coverage_alone(storage: Storage) -> None:
    await put(storage, page(0, 10), data(0, 10))
    for newest in (False, True):
        assert await storage.read(SERIES, minutes(5, 20), limit=0, newest=newest) == StoredBars(
            [], [data(5, 10)]
        )
