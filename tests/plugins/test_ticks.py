"""What the guard takes for trades, and what it takes a page of them to prove."""

from __future__ import annotations

import math
from typing import Any

import pytest
from scripted import START, RememberingPlugin, TickingPlugin, provider_of, scripted

from marketd.clock import ManualClock
from marketd.domain.bar import Tick, tick_fault
from marketd.domain.errors import HistoryEnds, ProviderFailed, Unsupported
from marketd.domain.timerange import TimeRange
from marketd.plugins.provider import Provider
from marketd.plugins.ticks import FetchedTicks

NOW = START + 10_000
SPAN = TimeRange(START, START + 100)


def tick(ms: int, trade_id: str = "") -> Tick:
    return (START + ms, 100.0, 0.5, "buy", trade_id)


def remembering(*past: Tick) -> tuple[RememberingPlugin, Provider]:
    plugin = scripted([], now_ms=NOW, cls=RememberingPlugin, clock=ManualClock(NOW))
    assert isinstance(plugin, RememberingPlugin)
    plugin.past = list(past)
    return plugin, provider_of(plugin)


def refused(provider: Provider, reason: str) -> float | None:
    return provider._metrics.registry.get_sample_value(
        "marketd_ticks_refused_total", {"provider": "test", "reason": reason}
    )


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        (tick(0), None),
        ((START, 1, 0, "", "x"), None),
        ((NOW + 60_000, 1.0, 1.0, "sell", ""), None),
        ((NOW + 60_001, 1.0, 1.0, "sell", ""), "future"),
        ((-1, 1.0, 1.0, "", ""), "time"),
        ((START, 0.0, 1.0, "", ""), "price"),
        ((START, math.nan, 1.0, "", ""), "price"),
        ((START, math.inf, 1.0, "", ""), "price"),
        ((START, 1.0, -1.0, "", ""), "size"),
        ((START, 1.0, math.nan, "", ""), "size"),
        ((START, 1.0, 1.0, "BUY", ""), "side"),
        ((START, "1", 1.0, "", ""), "shape"),
        ((START, True, 1.0, "", ""), "shape"),
        ((float(START), 1.0, 1.0, "", ""), "shape"),
        ((START, 1.0, 1.0, "", None), "shape"),
        ((START, 1.0, 1.0, "", "é"), None),
        ((START, 1.0, 1.0, "", "\ud800"), "shape"),
        ([START, 1.0, 1.0, "", ""], "shape"),
        ((START, 1.0, 1.0), "shape"),
    ],
)
def test_a_trade_that_cannot_be_right_is_told_why(row: Any, fault: str | None) -> None:
    assert tick_fault(row, NOW) == fault


async def test_a_stream_gives_valid_trades_in_order_and_the_rest_is_counted_and_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    plugin = scripted([], now_ms=NOW, cls=TickingPlugin)
    assert isinstance(plugin, TickingPlugin)
    provider = provider_of(plugin)
    batches = provider.stream_ticks("BTC/USD")
    wrong: Any = (START, -1.0, 1.0, "", "")
    plugin.batches.put_nowait([wrong])
    plugin.batches.put_nowait([tick(5), wrong, (START + 3, 1, 2, "", "")])
    assert await anext(batches) == ([], False)
    assert await anext(batches) == ([(START + 3, 1.0, 2.0, "", ""), tick(5)], False)
    plugin.batches.put_nowait([])
    assert await anext(batches) == ([], True)
    assert refused(provider, "price") == 2
    assert caplog.text.count("trade refused") == 1
    plugin.batches.put_nowait(RuntimeError("secret"))
    with pytest.raises(ProviderFailed, match="RuntimeError") as failure:
        await anext(batches)
    assert "secret" not in failure.value.message
    assert provider.health.state == "down"


async def test_a_short_page_is_all_there_is_and_a_full_one_ends_before_its_last_millisecond() -> None:
    _, provider = remembering(*map(tick, (1, 2, 3)))
    assert await provider.fetch_ticks("BTC/USD", SPAN) == FetchedTicks(
        [tick(1), tick(2), tick(3)], START + 100, []
    )
    _, provider = remembering(*map(tick, (1, 2, 3, 4, 4, 4)))
    assert await provider.fetch_ticks("BTC/USD", SPAN) == FetchedTicks(
        [*map(tick, (1, 2, 3, 4, 4))],
        START + 4,
        [],
    )


async def test_a_millisecond_that_fills_a_page_is_not_proven_and_keeps_nobody() -> None:
    _, provider = remembering(*[tick(0)] * 7)
    page = await provider.fetch_ticks("BTC/USD", SPAN)
    assert page == FetchedTicks([tick(0)] * 5, START + 1, [TimeRange(START, START + 1)])


async def test_what_is_refused_proves_nothing() -> None:
    plugin, provider = remembering(tick(1), tick(2))
    plugin.tick_answers.append(lambda page: [*page, (START + 3, -1.0, 1.0, "", "")])
    assert await provider.fetch_ticks("BTC/USD", SPAN) == FetchedTicks(
        [tick(1), tick(2)], START + 100, [SPAN]
    )


async def test_trades_from_elsewhere_leave_proven_what_lies_between_those_asked_for() -> None:
    plugin, provider = remembering(tick(10), tick(20))
    plugin.tick_answers.append(lambda page: [*page, tick(300)])
    page = await provider.fetch_ticks("BTC/USD", SPAN)
    assert page.ticks == [tick(10), tick(20)]
    assert page.refused == [TimeRange(START, START + 11), TimeRange(START + 20, START + 100)]
    plugin.tick_answers.append(lambda page: [tick(300)])
    assert await provider.fetch_ticks("BTC/USD", SPAN) == FetchedTicks([], START + 100, [SPAN])


async def test_where_a_history_ends_the_rest_is_given_up() -> None:
    plugin, provider = remembering()

    def ends(page: Any) -> Any:
        raise HistoryEnds(START + 40)

    plugin.tick_answers.append(ends)
    gone = TimeRange(START, START + 40)
    assert await provider.fetch_ticks("BTC/USD", SPAN) == FetchedTicks([], START + 40, [gone])


@pytest.mark.parametrize("answer", [None, "trades", 7, [tick(300)] * 5])
async def test_what_is_no_page_of_trades_is_a_failure_of_the_provider(answer: Any) -> None:
    plugin, provider = remembering()
    plugin.tick_answers.append(lambda page: answer)
    with pytest.raises(ProviderFailed):
        await provider.fetch_ticks("BTC/USD", SPAN)


async def test_a_plugin_without_trades_says_so() -> None:
    provider = provider_of(scripted([], now_ms=NOW))
    assert provider.features == []
    with pytest.raises(Unsupported):
        await provider.fetch_ticks("BTC/USD", SPAN)
    with pytest.raises(Unsupported):
        await anext(provider.stream_ticks("BTC/USD"))
