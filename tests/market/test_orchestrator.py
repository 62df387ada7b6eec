"""Any timeframe of any range: against the truth, by proof, and never twice from the provider."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted import INSTRUMENT, MINUTE, START, M, ScriptedPlugin, bar, feed_of, provider_of, scripted

from marketd.domain.bar import Bar, select
from marketd.domain.coverage import Gap, Reason
from marketd.domain.errors import (
    HistoryEnds,
    ProviderFailed,
    ProviderRateLimited,
    ProviderTimeout,
    Unsupported,
)
from marketd.domain.instrument import Series
from marketd.domain.resample import resample
from marketd.domain.timeframe import Timeframe
from marketd.domain.timerange import TimeRange, subtract
from marketd.market.history import History
from marketd.market.orchestrator import Bars, DataOrchestrator
from marketd.metrics import Metrics
from marketd.storage.sqlite import SQLiteStorage

DAY_MS = 86_400_000
FIVE = Timeframe.parse("5m")
HOUR = Timeframe.parse("1h")


def orchestrator(
    storage: SQLiteStorage, *, timeout_ms: int = 5_000, depth_ms: int = 30 * DAY_MS
) -> DataOrchestrator:
    history = History(storage, Metrics())
    return DataOrchestrator(history, request_timeout_ms=timeout_ms, depth_ms=depth_ms)


async def ask(
    reader: DataOrchestrator,
    plugin: ScriptedPlugin,
    timeframe: Timeframe = MINUTE,
    *,
    since: int | None = None,
    before: int | None = None,
    limit: int = 500,
    life: TimeRange | None = None,
    retries: int = 0,
) -> Bars:
    feed = feed_of(provider_of(plugin, retries=retries), plugin.timeframes[0], life)
    return await reader.bars(feed, timeframe, since=since, before=before, limit=limit)


def truth(
    bars: Sequence[Bar],
    timeframe: Timeframe,
    now_ms: int,
    since: int | None,
    before: int | None,
    limit: int,
) -> list[Bar]:
    """The answer by definition: all bars up to now, resampled whole, then cut."""
    end = timeframe.ceil(now_ms + 1 if before is None else before)
    seen = [one for one in bars if one[0] <= now_ms and one[0] < end]
    return list(select(resample(seen, timeframe), since=since, before=end, limit=limit))


@settings(max_examples=60)
@given(st.data())
def test_every_answer_is_the_truth_and_nothing_is_fetched_twice(data: st.DataObject) -> None:
    minutes = data.draw(
        st.one_of(
            st.sets(st.integers(0, 600), min_size=1),
            st.just(set(range(600))),
            st.just({m for m in range(600) if m % 97 < 30}),
        )
    )
    # Volumes whose sum depends on the order in which they are added up.
    bars = [bar(minute, volume=0.1 * minute) for minute in sorted(minutes)]
    now_ms = START + data.draw(st.integers(0, 620 * M))
    life = data.draw(st.sampled_from([None, TimeRange(START, START + 601 * M)]))
    queries = data.draw(
        st.lists(
            st.tuples(
                st.sampled_from(["1m", "5m", "7m", "1h", "1d", "1w", "1M"]).map(Timeframe.parse),
                st.none() | st.integers(-100, 700).map(lambda m: START + m * M),
                st.none() | st.integers(-100, 700).map(lambda m: START + m * M + 1),
                st.integers(1, 700),
            ),
            min_size=1,
            max_size=5,
        )
    )

    async def run(folder: Path) -> None:
        storage = SQLiteStorage(folder / "bars.db")
        await storage.open()
        try:
            plugin = scripted(bars, now_ms=now_ms)
            reader = orchestrator(storage, depth_ms=DAY_MS)
            for timeframe, since, before, limit in queries:
                found = await ask(
                    reader, plugin, timeframe, since=since, before=before, limit=limit, life=life
                )
                wanted = truth(bars, timeframe, now_ms, since, before, limit)
                if since is None:
                    end_ms = now_ms if before is None else min(timeframe.ceil(before), now_ms)
                    first_ms = timeframe.floor(end_ms - DAY_MS)
                    wanted = [one for one in wanted if one[0] >= first_ms]
                assert found.bars == wanted, (timeframe, since, before, limit)
                assert found.complete
                assert found.more or len(found.bars) <= limit
            # Where a page was proven, nothing is asked again but the tail, which cannot be proven,
            # and once, in whatever pieces, whether a page that ended early was really all.
            settled = MINUTE.floor(now_ms)
            proven: list[TimeRange] = []
            doubtful: list[TimeRange] = []
            for call in plugin.calls:
                assert (
                    call.start_ms >= settled
                    or any(piece.start_ms <= call.start_ms < piece.end_ms for piece in doubtful)
                    or not any(piece.start_ms <= call.start_ms < piece.end_ms for piece in proven)
                )
                doubtful = [left for piece in doubtful for left in subtract(piece, [call])]
                page = select(bars, since=call.start_ms, before=min(call.end_ms, now_ms + 1), limit=100)
                end = page[-1][0] + M if len(page) == plugin.page_limit else call.end_ms
                proven.append(TimeRange(call.start_ms, min(end, settled)))
                if page:
                    doubtful.append(TimeRange(page[-1][0] + M, end))
        finally:
            await storage.close()

    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(run(Path(folder)))


async def test_a_cold_last_200_ends_at_the_newest_bar(storage: SQLiteStorage) -> None:
    bars = [bar(minute) for minute in range(10_000)]
    now_ms = START + 9_999 * M + 30_000
    for name in ("1m", "5m", "1h", "1d"):
        timeframe = Timeframe.parse(name)
        plugin = scripted(bars, now_ms=now_ms)
        found = await ask(orchestrator(storage), plugin, timeframe, limit=200)
        assert found.bars == truth(bars, timeframe, now_ms, None, None, 200)
        assert found.bars[-1][0] == timeframe.floor(now_ms)


@pytest.mark.parametrize("limit", [1, 2, 50])
async def test_the_newest_bars_of_a_cold_series_cost_one_call(
    storage: SQLiteStorage, limit: int
) -> None:
    bars = [bar(minute) for minute in range(1_000)]
    plugin = scripted(bars, now_ms=START + 999 * M + 30_000)
    found = await ask(orchestrator(storage), plugin, limit=limit)
    assert found.bars == bars[-limit:]
    assert len(plugin.calls) == 1


async def test_the_second_question_is_answered_from_the_store(storage: SQLiteStorage) -> None:
    bars = [bar(minute) for minute in range(500)]
    plugin = scripted(bars, now_ms=START + 600 * M)
    reader = orchestrator(storage)
    first = await ask(reader, plugin, since=START, before=START + 400 * M)
    calls = len(plugin.calls)
    assert await ask(reader, plugin, since=START, before=START + 400 * M) == first
    assert len(plugin.calls) == calls


async def test_an_interior_hole_is_filled_and_nothing_else_is_asked(storage: SQLiteStorage) -> None:
    bars = [bar(minute) for minute in range(300)]
    plugin = scripted(bars, now_ms=START + 400 * M)
    reader = orchestrator(storage)
    await ask(reader, plugin, since=START, before=START + 100 * M)
    await ask(reader, plugin, since=START + 150 * M, before=START + 250 * M)
    plugin.calls.clear()
    found = await ask(reader, plugin, since=START, before=START + 250 * M)
    assert found.bars == bars[:250]
    assert plugin.calls == [TimeRange(START + 100 * M, START + 150 * M)]


async def test_a_quiet_market_is_asked_for_once(storage: SQLiteStorage) -> None:
    bars = [bar(minute) for minute in [*range(100), *range(3_000, 3_100)]]
    plugin = scripted(bars, now_ms=START + 3_100 * M)
    reader = orchestrator(storage)
    found = await ask(reader, plugin, limit=150)
    assert found.bars == bars[-150:]
    plugin.calls.clear()
    assert (await ask(reader, plugin, limit=150)).bars == bars[-150:]
    assert all(call.start_ms >= START + 3_100 * M for call in plugin.calls)


async def test_a_forming_bar_is_served_and_not_kept(storage: SQLiteStorage) -> None:
    plugin = scripted([bar(0), bar(1, close=5.0)], now_ms=START + M + 1)
    reader = orchestrator(storage)
    assert (await ask(reader, plugin, since=START)).bars[-1] == bar(1, close=5.0)
    plugin.bars[1] = bar(1, close=6.0)
    plugin.clock.advance(2 * M)  # type: ignore[attr-defined]
    assert (await ask(reader, plugin, since=START)).bars == [bar(0), bar(1, close=6.0)]


async def test_without_settling_time_a_missing_bar_is_no_proof(storage: SQLiteStorage) -> None:
    plugin = scripted([bar(0)], now_ms=START + 2 * M + 500)
    plugin.settle_ms = 2_000  # type: ignore[misc]
    reader = orchestrator(storage)
    assert (await ask(reader, plugin, since=START)).bars == [bar(0)]
    plugin.bars.append(bar(1))  # the provider publishes it a little late
    plugin.clock.advance(1_200)  # type: ignore[attr-defined]
    assert (await ask(reader, plugin, since=START)).bars == [bar(0), bar(1)]


async def test_a_failure_with_nothing_stored_is_an_error(storage: SQLiteStorage) -> None:
    plugin = scripted([bar(0)], now_ms=START + 10 * M)

    def fail(_: Sequence[Bar]) -> None:
        raise ProviderFailed("test is closed for today.", transient=False)

    plugin.answers = [fail]
    with pytest.raises(ProviderFailed, match="closed for today"):
        await ask(orchestrator(storage), plugin, since=START)


async def test_a_failure_with_a_part_stored_gives_the_part_and_the_gaps(storage: SQLiteStorage) -> None:
    bars = [bar(minute) for minute in range(200)]
    plugin = scripted(bars, now_ms=START + 250 * M)
    reader = orchestrator(storage)
    await ask(reader, plugin, since=START + 50 * M, before=START + 100 * M)

    def fail(_: Sequence[Bar]) -> None:
        raise ProviderFailed("no.", transient=False)

    plugin.answers = [fail] * 10
    found = await ask(reader, plugin, since=START, before=START + 150 * M)
    assert found.bars == bars[50:100]
    assert not found.complete
    assert found.gaps == [
        Gap(START, START + 50 * M, Reason.FEED_DOWN),
        Gap(START + 100 * M, START + 150 * M, Reason.FEED_DOWN),
    ]


async def test_a_bucket_that_a_gap_touches_is_left_out(storage: SQLiteStorage) -> None:
    bars = [bar(minute) for minute in range(60)]
    plugin = scripted(bars, now_ms=START + 100 * M)
    reader = orchestrator(storage)
    await ask(reader, plugin, since=START + 3 * M, before=START + 18 * M)

    def fail(_: Sequence[Bar]) -> None:
        raise ProviderFailed("no.", transient=False)

    plugin.answers = [fail] * 10
    found = await ask(reader, plugin, FIVE, since=START, before=START + 30 * M)
    assert found.bars == resample(bars[5:15], FIVE)
    assert not found.complete


async def test_a_slow_provider_costs_its_part_of_the_answer(storage: SQLiteStorage) -> None:
    bars = [bar(minute) for minute in range(200)]
    plugin = scripted(bars, now_ms=START + 250 * M)
    reader = orchestrator(storage, timeout_ms=100)
    await ask(reader, plugin, since=START, before=START + 100 * M)

    async def hang() -> list[Bar]:
        await asyncio.Event().wait()
        return []

    plugin.answers = [lambda _: hang()]
    found = await ask(reader, plugin, since=START, before=START + 200 * M)
    assert found.bars == bars[:100]
    assert found.gaps == [Gap(START + 100 * M, START + 200 * M, Reason.PENDING)]
    plugin.answers = [lambda _: hang()]
    with pytest.raises(ProviderTimeout):
        await ask(reader, plugin, since=START + 150 * M, before=START + 200 * M)


async def test_a_refused_bar_leaves_a_gap_that_says_so(storage: SQLiteStorage) -> None:
    bars = [bar(minute) for minute in range(10)]
    wrong = (bars[4][0], 1.0, 0.5, 2.0, 1.0, 1.0)
    plugin = scripted([*bars[:4], wrong, *bars[5:]], now_ms=START + 10 * M)
    found = await ask(orchestrator(storage), plugin, since=START, before=START + 10 * M)
    assert found.bars == [*bars[:4], *bars[5:]]
    assert found.gaps == [Gap(START + 4 * M, START + 5 * M, Reason.UNRECOVERABLE)]
    plugin.bars = bars
    again = await ask(orchestrator(storage), plugin, since=START, before=START + 10 * M)
    assert again.bars == bars
    assert again.complete


async def test_many_readers_of_one_cold_range_share_its_pages(storage: SQLiteStorage) -> None:
    bars = [bar(minute) for minute in range(300)]
    plugin = scripted(bars, now_ms=START + 400 * M)
    reader = orchestrator(storage)
    answers = await asyncio.gather(
        *(ask(reader, plugin, since=START, before=START + 300 * M) for _ in range(20))
    )
    assert all(answer.bars == bars for answer in answers)
    assert plugin.calls == [TimeRange(START + m * M, START + 300 * M) for m in (0, 100, 200)]


async def test_out_of_order_and_repeated_rows_are_put_right(storage: SQLiteStorage) -> None:
    bars = [bar(minute) for minute in range(10)]
    plugin = scripted(bars, now_ms=START + 20 * M)
    plugin.answers = [lambda page: [*reversed(page), page[3]]]
    found = await ask(orchestrator(storage), plugin, since=START, before=START + 10 * M)
    assert found.bars == bars
    assert found.complete


@pytest.mark.parametrize(
    "garbage", [[None], [(1, 2)], "text", 5, None, [{"t": 1}], [(START, "1", 2.0, 1.0, 1.0, 1.0)]]
)
async def test_garbage_is_an_error_and_nothing_of_it_is_kept(
    storage: SQLiteStorage, garbage: object
) -> None:
    plugin = scripted([bar(0)], now_ms=START + 10 * M)
    plugin.answers = [lambda _: garbage]
    with pytest.raises(ProviderFailed):
        await ask(orchestrator(storage), plugin, since=START, before=START + 10 * M)
    stored = await storage.read(Series(INSTRUMENT, MINUTE), TimeRange(0, START + DAY_MS), limit=10)
    assert stored == ([], [Gap(START, START + 10 * M, Reason.FEED_DOWN)])


async def test_bars_of_the_future_and_of_elsewhere_are_not_served(storage: SQLiteStorage) -> None:
    bars = [bar(minute) for minute in range(10)]
    plugin = scripted(bars, now_ms=START + 9 * M + 30_000)
    plugin.answers = [lambda page: [bar(-5), *page, bar(11)]]
    found = await ask(orchestrator(storage), plugin, since=START, before=START + 20 * M)
    assert [one[0] for one in found.bars] == [one[0] for one in bars]


async def test_a_transient_failure_is_tried_again(storage: SQLiteStorage) -> None:
    bars = [bar(minute) for minute in range(10)]
    plugin = scripted(bars, now_ms=START + 20 * M)

    def busy(_: Sequence[Bar]) -> None:
        raise ProviderRateLimited("busy.", retry_after_s=0.01)

    plugin.answers = [busy, busy]
    found = await ask(orchestrator(storage), plugin, since=START, before=START + 10 * M, retries=2)
    assert found.bars == bars
    assert len(plugin.calls) == 3


async def test_what_no_base_tiles_is_unsupported(storage: SQLiteStorage) -> None:
    plugin = scripted([], now_ms=START, timeframes=[HOUR])
    provider = provider_of(plugin)
    with pytest.raises(Unsupported, match="1m cannot be made"):
        provider.base_of("BTC/USD", MINUTE)


async def test_a_bar_of_absurdly_many_is_refused(storage: SQLiteStorage) -> None:
    plugin = scripted([], now_ms=START, timeframes=[Timeframe.parse("1s")])
    with pytest.raises(Unsupported, match="too long"):
        await ask(orchestrator(storage), plugin, Timeframe.parse("1y"), since=0)


async def test_a_month_is_a_month_whatever_its_length(storage: SQLiteStorage) -> None:
    day = Timeframe.parse("1d")
    start = day.floor(1_704_067_200_000)  # 2024-01-01
    bars: list[Bar] = [(start + d * DAY_MS, 1.0, 2.0, 0.5, 1.5, 1.0) for d in range(60)]
    plugin = scripted(bars, now_ms=start + 60 * DAY_MS, timeframes=[day])
    found = await ask(orchestrator(storage), plugin, Timeframe.parse("1M"), since=start)
    assert [one[5] for one in found.bars] == [31.0, 29.0]


async def test_depth_bounds_how_far_back_the_last_bars_are_looked_for(storage: SQLiteStorage) -> None:
    plugin = scripted([bar(0)], now_ms=START + 10 * DAY_MS)
    assert (await ask(orchestrator(storage, depth_ms=9 * DAY_MS), plugin, limit=1)).bars == []
    assert (await ask(orchestrator(storage, depth_ms=11 * DAY_MS), plugin, limit=1)).bars == [bar(0)]


async def test_outside_of_a_life_nothing_is_asked(storage: SQLiteStorage) -> None:
    plugin = scripted([bar(minute) for minute in range(50)], now_ms=START + 10_000 * M)
    life = TimeRange(START, START + 50 * M)
    found = await ask(orchestrator(storage), plugin, limit=100, life=life)
    assert len(found.bars) == 50
    assert all(life.start_ms <= call.start_ms and call.end_ms <= life.end_ms for call in plugin.calls)


class ShortMemory(ScriptedPlugin):
    """Keeps its newest ten bars alone, and says so when it is asked for older ones."""

    async def fetch_ohlcv(
        self,
        symbol: str,
        timeframe: Timeframe,
        since: int,
        before: int,
        limit: int,
        params: Mapping[str, Any],
    ) -> Sequence[Bar]:
        first_ms = self.bars[-10][0]
        if since < first_ms:
            self.calls.append(TimeRange(since, before))
            raise HistoryEnds(first_ms)
        return await super().fetch_ohlcv(symbol, timeframe, since, before, limit, params)


@pytest.mark.parametrize("since", [None, START + 5 * M])
async def test_what_a_provider_keeps_no_more_is_a_gap_and_the_rest_is_served(
    since: int | None, storage: SQLiteStorage
) -> None:
    plugin = scripted([bar(i) for i in range(40)], now_ms=START + 40 * M, cls=ShortMemory)
    provider = provider_of(plugin)
    reader = orchestrator(storage)
    found = await reader.bars(feed_of(provider), MINUTE, since=since, before=None, limit=500)
    assert found.bars == [bar(i) for i in range(30, 40)]
    assert [(gap.end_ms, gap.reason) for gap in found.gaps] == [(START + 30 * M, Reason.UNRECOVERABLE)]
    assert not found.complete
    # However far back, it is asked once for what it does not have; and it is well.
    assert len(plugin.calls) <= 4
    assert provider.health.state == "up"


async def test_a_range_of_which_nothing_is_kept_is_one_gap_and_no_error(storage: SQLiteStorage) -> None:
    plugin = scripted([bar(i) for i in range(40)], now_ms=START + 40 * M, cls=ShortMemory)
    found = await ask(orchestrator(storage), plugin, since=START, before=START + 20 * M)
    assert found.bars == []
    assert found.gaps == [Gap(START, START + 20 * M, Reason.UNRECOVERABLE)]
