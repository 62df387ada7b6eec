"""A whole daemon between a stand-in Alpaca and a client over WebSocket: the same bars at both ends."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import websockets
from alpaca_standin import HOUR, KEY, MINUTE, NOW, SECRET, Alpaca, row_of

from marketd.client import BarUpdate, MarketdClient, MarketdClientError, Snapshot, Status
from marketd.clock import ManualClock, SystemClock
from marketd.config import Config, ProviderConfig, ServerConfig, StorageConfig
from marketd.daemon import Daemon
from marketd.domain.bar import Bar, Tick
from marketd.plugins import Clock, RateLimit, ScaledClock

M = 60_000
SPEED = 300

Open = Callable[..., AbstractAsyncContextManager[MarketdClient]]


@pytest.fixture
def running(tmp_path: Path) -> Open:
    @asynccontextmanager
    async def running(
        alpaca: Alpaca, clock: Clock, key: str = KEY, **settings: Any
    ) -> AsyncIterator[MarketdClient]:
        told = {"base_url": alpaca.url, **settings}
        credentials = {"key": key, "secret": SECRET}
        limit = RateLimit(1_000, 1_000, burst=100)
        config = Config(
            server=ServerConfig(port=0),
            storage=StorageConfig(url=f"sqlite:///{tmp_path / 'marketd.db'}"),
            providers={
                "x": ProviderConfig("x", "alpaca", told, credentials, limit),
                "sim": ProviderConfig("sim", "sim", {"seed": 1}),
            },
        )
        daemon = Daemon(config, clock=clock)
        await daemon.start()
        try:
            async with asyncio.timeout(30), MarketdClient(daemon.url) as client:
                yield client
        finally:
            await daemon.stop()

    return running


@pytest.fixture
async def fast() -> AsyncIterator[tuple[Alpaca, Clock]]:
    """Alpaca on a clock on which minutes close a few times a second."""
    clock = ScaledClock(SystemClock(), start_ms=NOW, speed=SPEED)
    async with Alpaca(clock).serving() as alpaca:
        yield alpaca, clock


class Follower:
    """What a client was told as closed, in order, and of the feed's state."""

    def __init__(self, events: AsyncIterator[Any]) -> None:
        self._events = events
        self.closed: list[Bar] = []
        self.statuses: list[Status] = []

    async def hear(self, count: int) -> None:
        """Returns once `count` more bars have closed live."""
        while count:
            match await anext(self._events):
                case Snapshot(bars=bars):
                    self.closed += bars
                case BarUpdate(bar=bar, closed=True, rev=0):
                    self.closed.append(bar)
                    count -= 1
                case Status() as status:
                    self.statuses.append(status)

    async def revision(self) -> BarUpdate:
        while True:
            match await anext(self._events):
                case BarUpdate(closed=True, rev=rev) as update if rev:
                    return update


@asynccontextmanager
async def following(
    client: MarketdClient, market: str, symbol: str, timeframe: str = "1m", **more: Any
) -> AsyncIterator[Follower]:
    async with aclosing(client.stream(market, "x", [symbol], timeframe, **more)) as events:
        yield Follower(events)


@pytest.mark.parametrize(("market", "symbol"), [("us_equity", "SPY"), ("crypto", "BTC/USD")])
async def test_bars_are_the_same_at_alpaca_over_rest_and_live(
    fast: tuple[Alpaca, Clock], running: Open, market: str, symbol: str
) -> None:
    alpaca, clock = fast
    async with running(alpaca, clock) as client:
        async with following(client, market, symbol, since=NOW - 20 * M) as follower:
            await follower.hear(4)
        seen = follower.closed
        since, before = seen[0][0], seen[-1][0] + 1
        assert seen == await alpaca.history(symbol, MINUTE, since, before)
        answer = await client.ohlcv(market, "x", symbol, "1m", since=since, before=before)
        assert answer.complete
        assert list(answer.bars) == seen
        # A client may ask for what Alpaca has not: a week of days, across nights and a weekend.
        days = await client.ohlcv(
            market, "x", symbol, "1d", since=NOW - 7 * 1_440 * M, before=NOW - 1_440 * M
        )
        assert days.complete
        assert len(days.bars) >= 4


async def test_a_connection_that_breaks_in_mid_stream_costs_no_bar(
    fast: tuple[Alpaca, Clock], running: Open
) -> None:
    alpaca, clock = fast
    async with running(alpaca, clock) as client:
        async with following(client, "crypto", "BTC/USD") as follower:
            await follower.hear(2)
            await alpaca.hang_up()
            await alpaca.subscribed("bars", "BTC/USD")
            await follower.hear(3)
        seen = follower.closed
        assert seen == await alpaca.history("BTC/USD", MINUTE, seen[0][0], seen[-1][0] + 1)
        assert any("hung up" in status.message for status in follower.statuses)


async def test_a_corrected_bar_is_a_revision_live_and_in_the_store(
    fast: tuple[Alpaca, Clock], running: Open
) -> None:
    alpaca, clock = fast
    async with running(alpaca, clock) as client:
        async with (
            following(client, "us_equity", "SPY") as minutes,
            following(client, "us_equity", "SPY", "5m") as fives,
        ):
            await asyncio.gather(minutes.hear(1), fives.hear(1))
            t_ms, open_, _, low, close, volume = (await alpaca.history("SPY", MINUTE, NOW - M, NOW))[0]
            corrected: Bar = (t_ms, open_, 999.5, low, close, volume)
            await alpaca.say("updatedBars", "SPY", row_of(corrected))
            minute, five = await asyncio.gather(minutes.revision(), fives.revision())
            assert (minute.bar, minute.rev) == (corrected, 1)
            assert (five.bar[0], five.bar[2], five.rev) == (t_ms, 999.5, 1)
        answer = await client.ohlcv("us_equity", "x", "SPY", "1m", since=t_ms, before=t_ms + M)
        assert list(answer.bars) == [corrected]


async def test_live_hours_are_those_of_history(running: Open) -> None:
    hour_ms = HOUR.floor(NOW)
    clock = ManualClock(hour_ms + 57 * M + 30_000)
    async with Alpaca(clock).serving() as alpaca, running(alpaca, clock) as client:
        async with following(client, "crypto", "BTC/USD", "1h") as follower:
            hearing = asyncio.create_task(follower.hear(1))
            await alpaca.subscribed("bars", "BTC/USD")
            while not hearing.done():
                clock.advance(15_000)
                await asyncio.sleep(0.05)
        assert follower.closed == await alpaca.history("BTC/USD", HOUR, hour_ms, hour_ms + 1)


@pytest.mark.parametrize(("market", "symbol"), [("us_equity", "SPY"), ("crypto", "BTC/USD")])
async def test_trades_are_the_same_at_alpaca_over_rest_and_live(
    running: Open, market: str, symbol: str
) -> None:
    clock = ScaledClock(SystemClock(), start_ms=NOW, speed=10)
    since, before = NOW - 30_000, NOW + 10_000
    async with Alpaca(clock).serving() as alpaca, running(alpaca, clock) as client:
        async with websockets.connect(client.url.replace("http", "ws") + "/api/v1/stream") as socket:

            async def hear() -> list[Tick]:
                message = json.loads(await socket.recv())
                assert message["type"] in ("subscribed", "snapshot", "tick"), message
                return [tuple(tick) for tick in message.get("ticks", [])]

            names = {"market": market, "provider": "x", "symbols": [symbol], "channel": "ticks"}
            await socket.send(json.dumps({"type": "subscribe", "id": "1", "since": since, **names}))
            told: list[Tick] = []
            while not told or told[-1][0] < before:
                told += await hear()
            truth = await alpaca.trades(symbol, since, before)
            while not set(truth) <= set(told):
                told += await hear()  # what was missed while the stream began comes late
        assert sorted(tick for tick in told if tick[0] < before) == sorted(truth)
        answer = await client.ticks(market, "x", symbol, since=since, before=before, limit=10_000)
        assert answer.complete
        assert list(answer.ticks) == truth


async def test_an_expired_key_is_told_in_no_log_and_the_rest_is_served(
    fast: tuple[Alpaca, Clock], running: Open, caplog: pytest.LogCaptureFixture
) -> None:
    alpaca, clock = fast
    with caplog.at_level("DEBUG"):
        async with running(alpaca, clock, key="PK-EXPIRED") as client:
            with pytest.raises(MarketdClientError, match="key refused by the provider"):
                await anext(client.symbols("crypto", "x"))
            (found,) = (one for one in (await client.ready())["providers"] if one["provider"] == "x")
            assert found["state"] == "down"
            assert "key refused by the provider" in found["message"]
            assert len(alpaca.asked) == 1
            assert (await client.ohlcv("crypto", "sim", "BTC/USD", "1m", limit=5)).complete
    logged = [record.getMessage() for record in caplog.records]
    assert any("key refused" in line for line in logged)
    assert not any("EXPIRED" in line or SECRET in line for line in logged)
