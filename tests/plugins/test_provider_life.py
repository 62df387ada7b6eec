"""A provider opens when it is needed, is shared, rests when it is not, and can be set up anew."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing

import pytest
from scripted import MINUTE, START, M, ScriptedPlugin, StreamingPlugin, bar

from marketd.clock import ManualClock
from marketd.config import UpstreamConfig
from marketd.domain.bar import Bar
from marketd.domain.errors import NotReady, ProviderFailed, UnknownProvider
from marketd.domain.timerange import TimeRange
from marketd.metrics import Metrics
from marketd.plugins import BarUpdate, PluginContext, ScaledClock
from marketd.plugins.guard import Health
from marketd.plugins.instance import Source
from marketd.plugins.provider import Provider
from marketd.ratelimit import LocalAllowance, RateLimiter

BARS = [bar(minute) for minute in range(10)]
SPAN = TimeRange(START, START + 10 * M)


class Vendor:
    """Makes plugins and keeps every one that it made."""

    def __init__(self) -> None:
        self.made: list[Watched] = []
        self.may_open = asyncio.Event()
        self.may_open.set()
        self.refuses = False
        self.speed = 0.0

    def source(self) -> Source:
        return Source(self._make, RateLimiter(LocalAllowance()))

    def _make(self) -> Watched:
        plugin = Watched(PluginContext("test", ManualClock(START + 10 * M)), BARS, [MINUTE])
        plugin.vendor = self
        if self.speed:
            plugin.clock = ScaledClock(plugin.clock, start_ms=START, speed=self.speed)
        self.made.append(plugin)
        return plugin

    @property
    def is_open(self) -> list[bool]:
        """Of each that was opened, whether it still is."""
        return [not one.closes for one in self.made if one.opens]


class Watched(StreamingPlugin):
    vendor: Vendor
    closes = 0

    async def open(self) -> None:
        await super().open()
        await self.vendor.may_open.wait()
        if self.vendor.refuses:
            raise ProviderFailed("key refused by the provider.", transient=False)

    async def close(self) -> None:
        self.closes += 1


@pytest.fixture
def vendor() -> Vendor:
    return Vendor()


@pytest.fixture
async def provider(vendor: Vendor) -> AsyncIterator[Provider]:
    upstream = UpstreamConfig(timeout=5_000, retries=0)
    provider = Provider("test", vendor.source(), upstream=upstream, metrics=Metrics())
    yield provider
    await provider.close()


async def fetch(provider: Provider) -> Sequence[Bar]:
    return (await provider.fetch("BTC/USD", MINUTE, SPAN, {})).bars


async def test_it_is_opened_by_whoever_needs_it_first_and_shared(
    vendor: Vendor, provider: Provider
) -> None:
    assert provider.health == Health("idle")
    assert provider.plugin.markets == ("crypto",)
    assert not vendor.is_open
    answers = await asyncio.gather(fetch(provider), fetch(provider), provider.symbols("crypto"))
    assert answers[0] == answers[1] == BARS
    assert vendor.is_open == [True]
    assert provider.health == Health("up")


async def test_who_gives_up_waiting_does_not_keep_it_from_opening(
    vendor: Vendor, provider: Provider
) -> None:
    vendor.may_open.clear()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.01):
            await fetch(provider)
    assert provider.health == Health("opening")
    vendor.may_open.set()
    assert await fetch(provider) == BARS
    assert [one.opens for one in vendor.made] == [1]


async def test_one_that_did_not_open_is_closed_and_another_one_is_tried_later(
    vendor: Vendor, provider: Provider
) -> None:
    vendor.refuses = True
    with pytest.raises(ProviderFailed, match="key refused by the provider"):
        await fetch(provider)
    assert provider.health == Health("down", "key refused by the provider.")
    assert vendor.is_open == [False]
    vendor.refuses = False
    with pytest.raises(NotReady, match="key refused"):
        await fetch(provider)
    provider._reopen_at_s = 0.0
    assert await fetch(provider) == BARS
    assert vendor.is_open == [False, True]


async def test_one_that_nobody_needs_is_closed_and_opens_again(
    vendor: Vendor, provider: Provider
) -> None:
    await fetch(provider)
    await provider.close_if_idle(60)
    assert vendor.is_open == [True]
    await provider.close_if_idle(0)
    assert vendor.is_open == [False]
    assert provider.health == Health("idle")
    assert provider.plugin.timeframes == (MINUTE,)
    assert await fetch(provider) == BARS
    assert vendor.is_open == [False, True]


async def test_one_that_somebody_leases_stays_open(vendor: Vendor, provider: Provider) -> None:
    with provider.lease():
        await fetch(provider)
        await provider.close_if_idle(0)
        assert vendor.is_open == [True]
    await provider.close_if_idle(0)
    assert vendor.is_open == [False]


async def test_a_call_or_a_stream_under_way_is_a_lease(vendor: Vendor, provider: Provider) -> None:
    answer = asyncio.Event()

    async def slow(page: Sequence[Bar]) -> Sequence[Bar]:
        await answer.wait()
        return page

    await provider.open()
    plugin = vendor.made[0]
    plugin.answers = [slow]
    call = asyncio.create_task(fetch(provider))
    while not plugin.calls:  # noqa: ASYNC110 - a list has no event
        await asyncio.sleep(0)
    await provider.close_if_idle(0)
    assert vendor.is_open == [True]
    answer.set()
    assert await call == BARS
    plugin.updates.put_nowait(BarUpdate(BARS[0], closed=True))
    async with aclosing(provider.stream("BTC/USD", MINUTE)) as stream:
        await anext(stream)
        await provider.close_if_idle(0)
        assert vendor.is_open == [True]


async def test_one_with_a_time_of_its_own_is_never_closed_as_idle(
    vendor: Vendor, provider: Provider
) -> None:
    vendor.speed = 60.0
    await provider.replace(vendor.source())
    await provider.open()
    await provider.close_if_idle(0)
    assert vendor.is_open == [True]


async def test_a_call_under_way_is_answered_before_its_plugin_is_replaced(
    vendor: Vendor, provider: Provider
) -> None:
    answer = asyncio.Event()

    async def slow(page: Sequence[Bar]) -> Sequence[Bar]:
        await answer.wait()
        return page

    await provider.open()
    former = vendor.made[0]
    former.answers = [slow]
    call = asyncio.create_task(fetch(provider))
    while not former.calls:  # noqa: ASYNC110 - a list has no event
        await asyncio.sleep(0)
    replacing = asyncio.create_task(provider.replace(vendor.source()))
    await asyncio.sleep(0)
    assert await fetch(provider) == BARS
    assert not replacing.done()
    assert not former.closes
    answer.set()
    assert await call == BARS
    await replacing
    assert vendor.is_open == [False, True]


async def test_calls_that_wait_for_their_turn_go_to_the_new_plugin(
    vendor: Vendor, provider: Provider
) -> None:
    answer = asyncio.Event()

    async def slow(page: Sequence[Bar]) -> Sequence[Bar]:
        await answer.wait()
        return page

    await provider.open()
    former = vendor.made[0]
    former.answers = [slow] * 100
    calls = [asyncio.create_task(fetch(provider)) for _ in range(10)]
    while len(former.calls) < ScriptedPlugin.concurrency:  # noqa: ASYNC110 - a list has no event
        await asyncio.sleep(0)
    replacing = asyncio.create_task(provider.replace(vendor.source()))
    await asyncio.sleep(0)
    answer.set()
    assert await asyncio.gather(*calls) == [BARS] * 10
    await replacing
    assert len(former.calls) == ScriptedPlugin.concurrency
    assert vendor.is_open == [False, True]


async def test_a_stream_ends_when_its_plugin_is_replaced(vendor: Vendor, provider: Provider) -> None:
    await provider.open()
    former = vendor.made[0]
    async with aclosing(provider.stream("BTC/USD", MINUTE)) as stream:
        former.updates.put_nowait(BarUpdate(BARS[0], closed=True))
        await anext(stream)
        await provider.replace(vendor.source())
        former.updates.put_nowait(BarUpdate(BARS[1], closed=True))
        with pytest.raises(ProviderFailed, match="ended"):
            await anext(stream)
    assert provider.health == Health("idle")


async def test_one_that_is_replaced_while_it_opens_opens_the_new_one(
    vendor: Vendor, provider: Provider
) -> None:
    vendor.may_open.clear()
    waiting = asyncio.create_task(fetch(provider))
    while not vendor.made[0].opens:  # noqa: ASYNC110 - a counter has no event
        await asyncio.sleep(0)
    await provider.replace(vendor.source())
    vendor.may_open.set()
    assert await waiting == BARS
    assert vendor.is_open == [False, True]


async def test_one_that_is_removed_says_so_until_it_is_there_again(
    vendor: Vendor, provider: Provider
) -> None:
    await fetch(provider)
    await provider.remove()
    assert vendor.is_open == [False]
    with pytest.raises(UnknownProvider, match="any more"):
        await fetch(provider)
    await provider.replace(vendor.source())
    assert await fetch(provider) == BARS


async def test_it_is_closed_also_while_it_opens(vendor: Vendor, provider: Provider) -> None:
    vendor.may_open.clear()
    waiting = asyncio.create_task(fetch(provider))
    while not vendor.made[0].opens:  # noqa: ASYNC110 - a counter has no event
        await asyncio.sleep(0)
    await provider.close()
    assert vendor.is_open == [False]
    assert [one.closes for one in vendor.made] == [1]
    await asyncio.gather(waiting, return_exceptions=True)
