"""A whole daemon between a stand-in exchange and a WebSocket client: the same bars at both ends."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import websockets
from binance_standin import Binance
from kraken_standin import Kraken
from marketd_ccxt.plugin import CcxtPlugin
from standin import NOW, Exchange, refusing

from marketd.clock import SystemClock
from marketd.config import Config, ProviderConfig, ServerConfig, StorageConfig
from marketd.daemon import Daemon
from marketd.domain.bar import Tick
from marketd.plugins import MarketPlugin, RateLimit, ScaledClock, hookimpl
from marketd.plugins.loader import installed

S, M = 1_000, 60_000
SECRET = "c2VjcmV0LXNlY3JldA=="
Open = Callable[..., AbstractAsyncContextManager["House"]]


class House:
    """A running daemon with `x`, the exchange, and `sim`."""

    def __init__(self, daemon: Daemon) -> None:
        self.daemon = daemon

    async def get(self, path: str, **query: Any) -> tuple[int, dict[str, Any]]:
        async with (
            aiohttp.ClientSession(self.daemon.url) as session,
            session.get(path, params=query) as response,
        ):
            return response.status, await response.json()

    async def bars(self, since: int, before: int, timeframe: str) -> list[list[Any]]:
        query = {"since": since, "before": before, "timeframe": timeframe, "limit": 5_000}
        status, answer = await self.get("/api/v1/ohlcv", **PAIR, **query)
        assert status == 200, answer
        assert answer["complete"], answer["gaps"]
        bars: list[list[Any]] = answer["bars"]
        return bars

    async def state(self) -> dict[str, str]:
        """The state of `x`, once it has been needed."""
        await self.get("/api/v1/symbols", market="crypto", provider="x")
        return await self.health()

    async def health(self) -> dict[str, str]:
        _, ready = await self.get("/readyz")
        (state,) = (one for one in ready["providers"] if one["provider"] == "x")
        return dict(state)

    @asynccontextmanager
    async def subscribed(self, **more: Any) -> AsyncIterator[websockets.ClientConnection]:
        url = self.daemon.url.replace("http", "ws") + "/api/v1/stream"
        async with asyncio.timeout(20), websockets.connect(url) as socket:
            names = {"market": "crypto", "provider": "x", "symbols": ["BTC/USDT"]}
            await socket.send(json.dumps({"type": "subscribe", "id": "1", **names, **more}))
            yield socket

    @asynccontextmanager
    async def following(self, timeframe: str, **more: Any) -> AsyncIterator[Follower]:
        async with self.subscribed(timeframe=timeframe, **more) as socket:
            yield Follower(socket)


class Follower:
    """A client that keeps what it was told as closed."""

    def __init__(self, socket: websockets.ClientConnection) -> None:
        self._socket = socket
        self.closed: list[list[Any]] = []
        self.statuses: list[str] = []

    async def hear(self, count: int) -> None:
        """Returns once `count` more bars have closed live."""
        while count:
            message = json.loads(await self._socket.recv())
            match message["type"]:
                case "snapshot":
                    self.closed += list(message["bars"])
                case "status":
                    self.statuses.append(message["message"])
                case "gap":
                    pytest.fail(f"a gap: {message}")
                case "bar" if message["closed"]:
                    assert message["rev"] == 0
                    self.closed.append(message["bar"])
                    count -= 1


PAIR = {"market": "crypto", "provider": "x", "symbol": "BTC/USDT"}


@pytest.fixture
def opened(tmp_path: Path) -> Open:
    @asynccontextmanager
    async def opened(
        exchange: Exchange, clock: ScaledClock, types: Sequence[str] = ("spot",), **credentials: str
    ) -> AsyncIterator[House]:
        name = type(exchange).__name__.lower()
        settings = {"exchange": name, "base_url": exchange.url, "types": [*types]}
        x = ProviderConfig("x", "ccxt", settings, credentials, RateLimit(1_000, 1_000, burst=100))
        config = Config(
            server=ServerConfig(port=0),
            storage=StorageConfig(url=f"sqlite:///{tmp_path / 'marketd.db'}"),
            providers={"x": x, "sim": ProviderConfig("sim", "sim", {"seed": 1})},
        )
        daemon = Daemon(config, clock=clock)
        await daemon.start()
        try:
            yield House(daemon)
        finally:
            await daemon.stop()

    return opened


@pytest.fixture(params=[(Binance, "1s", 5), (Kraken, "1m", 300)], ids=["binance", "kraken"])
async def market(request: pytest.FixtureRequest) -> AsyncIterator[tuple[Exchange, ScaledClock, str]]:
    """An exchange, its clock, and a timeframe whose bars close a few times a second."""
    cls, timeframe, speed = request.param
    clock = ScaledClock(SystemClock(), start_ms=NOW, speed=speed)
    async with cls(clock).serving() as exchange:
        yield exchange, clock, timeframe


@pytest.fixture
async def kraken() -> AsyncIterator[tuple[Exchange, ScaledClock]]:
    clock = ScaledClock(SystemClock(), start_ms=NOW, speed=1)
    async with Kraken(clock).serving() as exchange:
        yield exchange, clock


async def test_bars_are_the_same_at_the_exchange_over_rest_and_live(
    market: tuple[Exchange, ScaledClock, str], opened: Open
) -> None:
    exchange, clock, timeframe = market
    step_ms = S if timeframe == "1s" else M
    async with opened(exchange, clock) as house:
        async with house.following(timeframe, since=NOW - 20 * step_ms) as follower:
            await follower.hear(5)
        seen = follower.closed
        since, before = seen[0][0], seen[-1][0] + 1
        truth = await exchange.history(timeframe, since, before, 500)
        assert seen == [list(bar) for bar in truth]
        assert seen == await house.bars(since, before, timeframe)
        # What a client may ask for is not only what the exchange has itself.
        fives = await house.bars(NOW - 30 * M, NOW - 5 * M, "5m" if timeframe == "1s" else "10m")
        assert fives


async def test_a_connection_that_breaks_in_mid_stream_costs_no_bar(
    market: tuple[Exchange, ScaledClock, str], opened: Open
) -> None:
    exchange, clock, timeframe = market
    async with opened(exchange, clock) as house:
        async with house.following(timeframe) as follower:
            await follower.hear(2)
            while not exchange.subscribed.empty():
                exchange.subscribed.get_nowait()
            await exchange.hang_up()
            await exchange.subscribed.get()
            await follower.hear(5)
        seen = follower.closed
        truth = await exchange.history(timeframe, seen[0][0], seen[-1][0] + 1, 500)
        assert seen == [list(bar) for bar in truth]
        assert any("cannot be reached" in status for status in follower.statuses)


async def test_an_exchange_without_a_stream_is_polled(
    market: tuple[Exchange, ScaledClock, str], opened: Open
) -> None:
    exchange, clock, timeframe = market
    async with opened(exchange, clock) as house:
        assert (await house.state())["state"] == "up"
        house.daemon.loader.providers["x"].plugin.has_bar_stream = False  # type: ignore[attr-defined]
        async with house.following(timeframe) as follower:
            await follower.hear(3)
        assert not exchange.sockets
        seen = follower.closed
        assert seen == await house.bars(seen[0][0], seen[-1][0] + 1, timeframe)


@pytest.mark.parametrize("cls", [Binance, Kraken])
async def test_trades_are_the_same_at_the_exchange_over_rest_and_live(
    cls: type[Exchange], opened: Open
) -> None:
    clock = ScaledClock(SystemClock(), start_ms=NOW, speed=10)
    since, before = NOW - 5 * M, NOW + 10 * S
    async with cls(clock).serving() as exchange, opened(exchange, clock) as house:
        async with house.subscribed(channel="ticks", since=since) as socket:
            told: list[Tick] = []
            is_cut = False
            truth = await exchange.trades(since, before, 10_000)
            while not (told and told[-1][0] >= before and set(truth) <= set(told)):
                message = json.loads(await socket.recv())
                assert message["type"] in ("subscribed", "snapshot", "tick", "status"), message
                told += [tuple(tick) for tick in message.get("ticks", [])]
                if not is_cut and told and told[-1][0] > NOW + 3 * S:
                    is_cut = True
                    await exchange.hang_up()
                truth = await exchange.trades(since, before, 10_000)
        # Each once, although the connection broke between them.
        assert is_cut
        assert sorted(tick for tick in told if tick[0] < before) == sorted(truth)
        query = {"since": since, "before": before, "limit": 10_000}
        status, answer = await house.get("/api/v1/ticks", **PAIR, **query)
        assert (status, answer["complete"]) == (200, True)
        assert [tuple(tick) for tick in answer["ticks"]] == truth


@pytest.mark.parametrize("is_mute", [False, True])
async def test_a_quiet_market_is_proven_by_its_bars_and_a_mute_stream_is_found_out(
    opened: Open, is_mute: bool
) -> None:
    clock = ScaledClock(SystemClock(), start_ms=NOW, speed=30)
    # With contracts, too, there is no history of trades.
    async with Binance(clock).serving() as exchange, opened(exchange, clock, ["spot", "swap"]) as house:
        async with house.subscribed(channel="ticks") as socket:
            while (message := json.loads(await socket.recv()))["type"] != "tick":
                pass
            since = message["ticks"][0][0] + 1
            end_ms = (clock.now_ms() // S + 20) * S
            if is_mute:
                # Its socket answers pings all the same.
                exchange.is_mute = True
            else:
                exchange.halted_ms = end_ms - 10 * S
            query = {"since": since, "before": end_ms, "limit": 10_000}
            while message.get("state") != "stale":
                _, answer = await house.get("/api/v1/ticks", **PAIR, **query)
                if clock.now_ms() > end_ms and answer["complete"]:
                    break
                with suppress(TimeoutError):
                    message = json.loads(await asyncio.wait_for(socket.recv(), 0.05))
        assert answer["complete"] is not is_mute
        if not is_mute:
            # Live each trade has an id of its own.
            truth = await exchange.trades(since, exchange.halted_ms, 10_000)
            assert [tuple(tick[:4]) for tick in answer["ticks"]] == [tick[:4] for tick in truth]


async def test_a_429_is_waited_out_and_a_long_one_is_told(
    kraken: tuple[Exchange, ScaledClock], opened: Open
) -> None:
    exchange, clock = kraken
    async with opened(exchange, clock) as house:
        assert (await house.state())["state"] == "up"
        exchange.faults.append(refusing(429, {}, **{"Retry-After": "0"}))
        assert len(await house.bars(NOW - 20 * M, NOW - 10 * M, "1m")) == 10
        exchange.faults.append(refusing(429, {}, **{"Retry-After": "60"}))
        query = {"since": NOW - 40 * M, "before": NOW - 30 * M, "timeframe": "1m"}
        status, problem = await house.get("/api/v1/ohlcv", **PAIR, **query)
        assert problem["code"] == "rate_limited"
        assert status in (429, 502, 503)


async def test_an_expired_key_is_told_and_the_rest_is_served(
    kraken: tuple[Exchange, ScaledClock], opened: Open, caplog: pytest.LogCaptureFixture
) -> None:
    exchange, clock = kraken
    with caplog.at_level("DEBUG"):
        async with opened(exchange, clock, api_key="expired-key", secret=SECRET) as house:
            state = await house.state()
            assert state["state"] == "down"
            assert "key refused by the provider" in state["message"]
            await sim_is_served(house)
    logged = [record.getMessage() for record in caplog.records if record.name.startswith("marketd")]
    assert any("key refused" in line for line in logged)
    assert not any("expired-key" in line or SECRET in line for line in logged)


class Offered:
    """A plugin that offers an exchange at `url` where nobody has configured one."""

    url = ""

    @staticmethod
    @hookimpl
    def marketd_providers() -> Sequence[type[MarketPlugin]]:
        return [CcxtPlugin]

    @staticmethod
    @hookimpl
    def marketd_default_providers() -> Mapping[str, Mapping[str, Any]]:
        return {"x": {"plugin": "ccxt", "exchange": "kraken", "base_url": Offered.url}}


@pytest.mark.parametrize(
    ("is_there", "state", "told"), [(True, "up", ""), (False, "down", "cannot be reached")]
)
async def test_what_nobody_configured_says_by_itself_whether_it_is_there_and_the_rest_is_served(
    kraken: tuple[Exchange, ScaledClock], tmp_path: Path, is_there: bool, state: str, told: str
) -> None:
    exchange, clock = kraken
    Offered.url = exchange.url if is_there else "http://127.0.0.1:1"
    config = Config(
        server=ServerConfig(port=0),
        storage=StorageConfig(url=f"sqlite:///{tmp_path / 'marketd.db'}"),
        plugins_may_add=True,
    )
    others = [one for one in installed() if one.name != "ccxt"]
    offered = EntryPoint("ccxt", f"{__name__}:Offered", "marketd")
    daemon = Daemon(config, clock=clock, found=lambda: [*others, offered])
    await daemon.start()
    house = House(daemon)
    try:
        async with asyncio.timeout(20):
            while (health := await house.health())["state"] in ("idle", "opening"):
                await sim_is_served(house)
        assert health["state"] == state
        assert told in health["message"]
        await sim_is_served(house)
    finally:
        await daemon.stop()


async def test_more_history_than_the_exchange_keeps_is_a_gap_and_not_silence(
    kraken: tuple[Exchange, ScaledClock], opened: Open
) -> None:
    exchange, clock = kraken
    async with opened(exchange, clock) as house:
        query = {"timeframe": "1m", "limit": 1_000}
        status, answer = await house.get("/api/v1/ohlcv", **PAIR, **query)
        assert status == 200
        assert len(answer["bars"]) == 720
        assert not answer["complete"]
        (gap,) = answer["gaps"]
        assert gap["reason"] == "unrecoverable"
        assert gap["end"] == answer["bars"][0][0]
        assert len([one for one in exchange.asked if "OHLC" in one]) <= 4


async def sim_is_served(house: House) -> None:
    query = {"market": "crypto", "provider": "sim", "symbol": "BTC/USD", "timeframe": "1m", "limit": 5}
    status, answer = await house.get("/api/v1/ohlcv", **query)
    assert status == 200
    assert answer["complete"]
