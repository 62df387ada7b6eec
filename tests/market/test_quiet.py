"""Whether the bars of a provider show that its tape has been quiet."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from scripted import INSTRUMENT, START, M, TickingPlugin, bar, provider_of, scripted

from marketd.domain.bar import Bar
from marketd.market.history import History
from marketd.market.orchestrator import DataOrchestrator
from marketd.market.service import MarketService
from marketd.market.tapes import Tapes
from marketd.market.time_bars import TimeBars
from marketd.metrics import Metrics
from marketd.plugins.feed import TickFeed
from marketd.storage.sqlite import SQLiteStorage

S = 1_000
NOW = START + 6 * M + 30 * S
SETTLED = START + 6 * M
# The last trade was in the third minute, at the price with which it closed.
BEFORE = [bar(0), bar(1), bar(2)]
SINCE = START + 2 * M + 20 * S
_, _, _, _, CLOSE, _ = bar(2)


def flat(minute: int, volume: float | None) -> Bar:
    return (START + minute * M, CLOSE, CLOSE, CLOSE, CLOSE, volume)


async def quiet_until(storage: SQLiteStorage, bars: list[Bar], since_ms: int = SINCE) -> int:
    plugin = scripted(bars, now_ms=NOW, cls=TickingPlugin)
    source = provider_of(plugin)
    loader: Any = SimpleNamespace(provider=lambda name: source)
    nobody: Any = None
    orchestrator = DataOrchestrator(
        History(storage, Metrics()), request_timeout_ms=5_000, depth_ms=60 * M
    )
    time_bars = TimeBars(Tapes(storage, Metrics()), late_ms=15 * M)
    service = MarketService(loader, orchestrator, time_bars, nobody, nobody, storage)
    last = (SINCE, CLOSE, 0.5, "buy", "1")
    return await service.quiet_until(TickFeed(source, INSTRUMENT), since_ms, last)


@pytest.mark.parametrize(
    "bars", [BEFORE, [*BEFORE, flat(3, 0.0), flat(4, 0.0), flat(5, 0.0)]], ids=["none", "without volume"]
)
async def test_bars_without_a_trade_after_the_last_show_that_it_was_quiet_until_they_are_settled(
    storage: SQLiteStorage, bars: list[Bar]
) -> None:
    assert await quiet_until(storage, bars) == SETTLED


async def test_of_time_that_was_proven_before_no_bar_is_wanted(storage: SQLiteStorage) -> None:
    assert await quiet_until(storage, BEFORE, START + 4 * M) == SETTLED


@pytest.mark.parametrize(
    "bars",
    [
        [bar(0), bar(1)],
        [bar(0), bar(1), bar(2, CLOSE + 1)],
        [*BEFORE, flat(4, 0.1)],
        [*BEFORE, flat(4, None)],
        [],
    ],
    ids=[
        "bar absent",
        "another trade in the same",
        "a later one",
        "a volume that nobody knows",
        "no bars",
    ],
)
async def test_otherwise_nothing_is_shown(storage: SQLiteStorage, bars: list[Bar]) -> None:
    assert await quiet_until(storage, bars) == 0


async def test_nor_is_it_before_the_bar_of_the_last_trade_is_settled_or_long_after(
    storage: SQLiteStorage,
) -> None:
    assert await quiet_until(storage, BEFORE, SETTLED + S) == 0
    assert await quiet_until(storage, BEFORE, START - 5 * M) == 0
