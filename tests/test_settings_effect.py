"""No setting does nothing: each is changed here, and the effect is seen from outside."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import redis
from servers.ports import free_port

from marketd import logs
from marketd.config import Config, declared_settings, load_config
from marketd.daemon import Daemon
from marketd.domain.instrument import Instrument
from marketd.domain.timerange import TimeRange

PLUGIN = """
import asyncio
from marketd.domain.errors import ProviderFailed
from marketd.domain.instrument import SymbolInfo
from marketd.domain.timeframe import Timeframe
from marketd.plugins import BarStreams, MarketPlugin, TickHistory, TickStreams, hookimpl

class Odd(MarketPlugin, BarStreams, TickStreams, TickHistory):
    plugin = "odd"
    markets = ("crypto",)
    timeframes = (Timeframe.parse("1m"),)
    lists = fetches = streams = 0

    def __init__(self, context):
        super().__init__(context)
        self.began, self.ended, self.closed = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def close(self):
        self.closed.set()

    async def get_symbols(self, market):
        self.lists += 1
        return [SymbolInfo(symbol, market) for symbol in ("HANGS", "FAILS", "QUIET", "MUTE")]

    async def fetch_ohlcv(self, symbol, timeframe, since, before, limit, params):
        self.fetches += 1
        if symbol == "FAILS":
            raise ProviderFailed("no.")
        if symbol == "HANGS":
            await asyncio.Event().wait()
        if symbol == "MUTE":
            now = timeframe.floor(self.clock.now_ms())
            return [(now, 1.0, 1.0, 1.0, 1.0, float(self.fetches))] if since <= now < before else []
        return []

    async def stream_bars(self, symbol, timeframe):
        self.streams += 1
        self.began.set()
        try:
            await asyncio.Event().wait()
            yield
        finally:
            self.ended.set()

    async def stream_ticks(self, symbol):
        yield [(self.clock.now_ms() - 60_000, 1.0, 1.0, "buy", "")]
        await asyncio.Event().wait()

    async def fetch_ticks(self, symbol, since, before, limit):
        return []

@hookimpl
def marketd_providers():
    return [Odd]
"""


class Running:
    """A daemon with the simulated exchange and the odd provider."""

    def __init__(self, daemon: Daemon, session: aiohttp.ClientSession, config: Config) -> None:
        self.daemon = daemon
        self.session = session
        self.config = config
        self.odd: Any = daemon.loader.provider("odd").plugin

    async def ohlcv(
        self, symbol: str, provider: str = "odd", **query: Any
    ) -> tuple[int, dict[str, Any]]:
        query = {"market": "crypto", "provider": provider, "symbol": symbol, "timeframe": "1m"} | query
        async with self.session.get(f"{self.daemon.url}/api/v1/ohlcv", params=query) as response:
            return response.status, await response.json()

    @asynccontextmanager
    async def stream(self, **options: Any) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
        async with self.session.ws_connect(f"{self.daemon.url}/api/v1/stream", **options) as socket:
            yield socket


async def subscribe(client: aiohttp.ClientWebSocketResponse, **fields: Any) -> dict[str, Any]:
    names = {"market": "crypto", "provider": "sim", "symbols": ["BTC/USD"], "timeframe": "1m"}
    said = {"type": "subscribe"} | names | fields
    await client.send_json({name: value for name, value in said.items() if value is not None})
    while True:
        message: dict[str, Any] = await asyncio.wait_for(client.receive_json(), 30)
        if message["type"] in ("subscribed", "error"):
            return message


PORT = free_port()


async def host(running: Running) -> None:
    assert running.daemon.url.startswith("http://127.0.0.2:")


async def port(running: Running) -> None:
    assert running.daemon.url == f"http://127.0.0.1:{PORT}"


async def request_timeout(running: Running) -> None:
    begun = time.monotonic()
    status, body = await running.ohlcv("HANGS", since=1_700_000_000_000)
    assert (status, body["code"]) == (504, "provider_timeout")
    assert "time that a request has" in body["detail"]
    assert time.monotonic() - begun < 5


async def max_body(running: Running) -> None:
    for size, status in ((1_000, 200), (1_025, 413)):
        url = f"{running.daemon.url}/healthz"
        async with running.session.get(url, data=b"x" * size) as response:
            assert response.status == status


async def url(running: Running) -> None:
    assert running.config.storage.sqlite_path.name == "elsewhere.db"
    assert running.config.storage.sqlite_path.exists()


async def redis_url_(running: Running) -> None:
    await running.ohlcv("QUIET", since=1_700_000_000_000, before=1_700_000_060_000)
    with redis.Redis.from_url(running.config.redis.url) as client:
        assert any(client.scan_iter("marketd:rate:{odd:*"))


async def memory(running: Running) -> None:
    for minute in range(5):
        since = 1_700_000_000_000 + minute * 60_000
        await running.ohlcv("BTC/USD", "sim", since=since, before=1_700_001_000_000)
    async with running.session.get(f"{running.daemon.url}/metrics") as response:
        told = await response.text()
    assert 'marketd_bars_served_total{source="storage"} 0.0' not in told
    # With more room the last answers came out of it.
    assert 'marketd_bars_served_total{source="memory"} 0.0' in told


async def timeout(running: Running) -> None:
    status, body = await running.ohlcv("HANGS", since=1_700_000_000_000)
    assert (status, body["detail"]) == (504, "odd did not answer within 0.02 s.")


async def retries(running: Running) -> None:
    await running.ohlcv("FAILS", since=1_700_000_000_000)
    assert running.odd.fetches == 2


async def symbols_ttl(running: Running) -> None:
    await running.ohlcv("QUIET", since=1_700_000_000_000, before=1_700_000_060_000)
    lists = running.odd.lists
    await asyncio.sleep(0.01)
    await running.ohlcv("QUIET", since=1_700_000_000_000, before=1_700_000_120_000)
    while running.odd.lists == lists:  # noqa: ASYNC110 - the plugin of a test has no event for it
        await asyncio.sleep(0.01)


async def idle(running: Running) -> None:
    await running.ohlcv("QUIET", since=1_700_000_000_000, before=1_700_000_060_000)
    await asyncio.wait_for(running.odd.closed.wait(), 30)


async def depth(running: Running) -> None:
    _, body = await running.ohlcv("BTC/USD", "sim", timeframe="1d", limit=500)
    assert 3 <= len(body["bars"]) <= 4


async def heartbeat(running: Running) -> None:
    async with running.stream(autoping=False) as client:
        frame = await asyncio.wait_for(client.receive(), 2)
        assert frame.type is aiohttp.WSMsgType.PING


async def outbox(running: Running) -> None:
    async with running.stream() as client:
        # Of a history that cannot be had an empty snapshot and the gap come in one turn of the loop.
        await subscribe(client, provider="odd", symbols=["FAILS"], since="2024-03-05T14:00:00Z")
        frames = []
        while not client.closed:
            frames.append(await asyncio.wait_for(client.receive(), 30))
        *_, error, close = frames
        assert "slow_consumer" in error.data
        assert (close.type, close.data) == (aiohttp.WSMsgType.CLOSE, 4008)


async def max_subscriptions(running: Running) -> None:
    async with running.stream() as client:
        assert (await subscribe(client, timeframe="1m"))["type"] == "subscribed"
        assert (await subscribe(client, timeframe="5m"))["type"] == "subscribed"
        refused = await subscribe(client, timeframe="1h")
        assert refused["code"] == "limit_exceeded"
        assert "2 streams (max_subscriptions)" in refused["message"]


async def max_symbols(running: Running) -> None:
    async with running.stream() as client:
        refused = await subscribe(client, symbols=["BTC/USD", "ETH/USD"])
        assert "1 symbol" in refused["message"]
        assert "max_symbols" in refused["message"]


async def max_message(running: Running) -> None:
    async with running.stream() as client:
        await client.send_str(json.dumps({"type": "ping", "id": "a" * 2_000}))
        message = await asyncio.wait_for(client.receive_json(), 30)
        assert message["code"] == "limit_exceeded"
        assert "1024 bytes (max_message)" in message["message"]
        assert (await asyncio.wait_for(client.receive(), 30)).data == 1009


async def patience(running: Running) -> None:
    metrics = running.daemon.metrics
    async with running.stream() as client:
        # It reads nothing of what is answered, until some of that waits for it.
        while not metrics.registry.get_sample_value("marketd_stream_queued_bytes"):
            for _ in range(1_000):
                await client.send_json({"type": "ping", "id": "a" * 60})
        async with asyncio.timeout(4):
            while not metrics.registry.get_sample_value("marketd_stream_cut_total"):  # noqa: ASYNC110
                await asyncio.sleep(0.01)


async def refused_clients(running: Running, words: str) -> None:
    async with running.stream() as first:
        async with running.stream() as second:
            message = await asyncio.wait_for(second.receive_json(), 30)
            assert (message["code"], words in message["message"]) == ("limit_exceeded", True)
            assert (await asyncio.wait_for(second.receive(), 30)).data == 1008
        await first.send_json({"type": "ping"})
        assert (await asyncio.wait_for(first.receive_json(), 30))["type"] == "pong"
    async with running.stream() as third:
        await third.send_json({"type": "ping"})
        assert (await asyncio.wait_for(third.receive_json(), 30))["type"] == "pong"


async def max_clients(running: Running) -> None:
    await refused_clients(running, "1 clients (max_clients)")


async def max_clients_per_address(running: Running) -> None:
    await refused_clients(running, "1 clients (max_clients_per_address)")


async def max_streams(running: Running) -> None:
    async with running.stream() as one, running.stream() as other:
        for client in (one, other):
            # The trades behind these bars are no stream that anybody follows.
            assert (await subscribe(client, timeframe="100t"))["type"] == "subscribed"
        for another in ({"symbols": ["ETH/USD"]}, {"channel": "ticks", "timeframe": None}):
            refused = await subscribe(other, **another)
            assert refused["code"] == "limit_exceeded"
            assert "1 streams (max_streams)" in refused["message"]


async def max_rate(running: Running) -> None:
    async with running.stream() as client:
        kinds = []
        for _ in range(15):
            await client.send_json({"type": "ping", "id": "7"})
            message = await asyncio.wait_for(client.receive_json(), 30)
            assert message["id"] == "7"
            kinds.append(message["type"])
        assert kinds[:10] == ["pong"] * 10
        assert message["code"] == "limit_exceeded"
        assert "1 messages a second (max_rate)" in message["message"]
        await client.send_str("no message at all")
        message = await asyncio.wait_for(client.receive_json(), 30)
        assert (message["id"], message["code"]) == ("", "limit_exceeded")


async def linger(running: Running) -> None:
    async with running.stream() as client:
        await subscribe(client, provider="odd", symbols=["QUIET"])
        await asyncio.wait_for(running.odd.began.wait(), 30)
    await asyncio.wait_for(running.odd.ended.wait(), 30)


async def ring(running: Running) -> None:
    told = []
    for wanted in (1, 2):
        async with running.stream() as client:
            answer = await subscribe(client, timeframe="1s")
            cursor, closed = answer["streams"][0]["cursor"], 0
            while closed < wanted:
                message = await asyncio.wait_for(client.receive_json(), 30)
                closed += message["type"] == "bar" and message["closed"]
        async with running.stream() as client:
            await subscribe(client, timeframe="1s", resume=cursor)
            kinds = set()
            while (message := await asyncio.wait_for(client.receive_json(), 30))["type"] != "resumed":
                kinds.add(message["type"])
            assert message["recovered"]
            told.append(kinds)
    # What the ring does not have any more is read from the store.
    assert told == [{"bar"}, {"snapshot"}]


async def stall(running: Running) -> None:
    async with running.stream() as client:
        await subscribe(client, provider="odd", symbols=["MUTE"])
        while running.odd.streams < 2:  # noqa: ASYNC110 - the plugin of a test has no event for it
            await asyncio.sleep(0.02)


async def keep(running: Running) -> None:
    names = {"market": "crypto", "provider": "sim", "symbol": "BTC/USD"}
    since = str(int(time.time() * 1000) - 60_000)
    query = names | {"since": since}
    async with running.session.get(f"{running.daemon.url}/api/v1/ticks", params=query) as response:
        assert (await response.json())["ticks"]
    sim, second = Instrument(*names.values()), TimeRange(int(since), int(since) + 50_000)
    while (await running.daemon.storage.read_ticks(sim, second, limit=1)).ticks:  # noqa: ASYNC110
        await asyncio.sleep(0.02)


async def late(running: Running) -> None:
    registry = running.daemon.metrics.registry
    async with running.stream() as client:
        names = {"market": "crypto", "provider": "odd", "symbols": ["QUIET"], "channel": "ticks"}
        await client.send_json({"type": "subscribe"} | names)
        while not registry.get_sample_value("marketd_ticks_too_late_total", {"provider": "odd"}):  # noqa: ASYNC110
            await asyncio.sleep(0.02)


EFFECTS: Mapping[str, tuple[str, Callable[[Running], Awaitable[None]]]] = {
    "server.host": ("127.0.0.2", host),
    "server.port": (str(PORT), port),
    "server.request_timeout": ("50ms", request_timeout),
    "server.max_body": ("1KB", max_body),
    "storage.url": ("elsewhere", url),
    "redis.url": ("a real one", redis_url_),
    "cache.memory": ("1KB", memory),
    "upstream.timeout": ("20ms", timeout),
    "upstream.retries": ("1", retries),
    "upstream.symbols_ttl": ("1ms", symbols_ttl),
    "upstream.idle": ("1ms", idle),
    "history.depth": ("3d", depth),
    "stream.heartbeat": ("50ms", heartbeat),
    "stream.outbox": ("64B", outbox),
    "stream.max_subscriptions": ("2", max_subscriptions),
    "stream.max_symbols": ("1", max_symbols),
    "stream.max_message": ("1KB", max_message),
    "stream.patience": ("200ms", patience),
    "stream.max_clients": ("1", max_clients),
    "stream.max_clients_per_address": ("1", max_clients_per_address),
    "stream.max_streams": ("1", max_streams),
    "stream.max_rate": ("1", max_rate),
    "stream.linger": ("0ms", linger),
    "stream.stall": ("10ms", stall),
    "stream.ring": ("1", ring),
    "ticks.keep": ("1s", keep),
    "ticks.late": ("1s", late),
}
# What only the process's log shows is changed below.
LOGGED = {"log.level", "log.format"}


def test_every_setting_is_changed_here() -> None:
    assert {f"{one.section}.{one.key}" for one in declared_settings()} == set(EFFECTS) | LOGGED


@pytest.mark.parametrize("name", EFFECTS)
async def test_a_setting_has_its_effect(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    value, see = EFFECTS[name]
    if name == "storage.url":
        value = f"sqlite:///{tmp_path}/elsewhere.db"
    elif name == "redis.url":
        value = request.getfixturevalue("redis_url")
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "odd_plugin.py").write_text(PLUGIN)
    section, key = name.upper().split(".")
    environ = {
        "MARKETD_SERVER__PORT": "0",
        "MARKETD_STORAGE__URL": f"sqlite:///{tmp_path}/a.db",
        "MARKETD_PROVIDERS__SIM__PLUGIN": "sim",
        "MARKETD_PROVIDERS__ODD__PLUGIN": "odd",
        "MARKETD_UPSTREAM__RETRIES": "0",
        f"MARKETD_{section}__{key}": value,
    }
    entries = [
        EntryPoint("sim", "marketd.plugins.sim", "marketd"),
        EntryPoint("odd", "odd_plugin", "marketd"),
    ]
    config = load_config(None, environ)
    daemon = Daemon(config, found=lambda: entries)
    await daemon.start()
    try:
        async with aiohttp.ClientSession() as session:
            await asyncio.wait_for(see(Running(daemon, session, config)), 20)
    finally:
        await daemon.stop()
        monkeypatch.delitem(__import__("sys").modules, "odd_plugin")


def test_the_log_s_level_and_format_have_their_effect(capsys: pytest.CaptureFixture[str]) -> None:
    import logging

    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    try:
        log = logging.getLogger("marketd.test")
        for one, form in (("warning", "text"), ("info", "json")):
            logs.setup(one, form, ())
            log.info("provider up provider=%s", "sim")
    finally:
        root.handlers[:] = before
        root.setLevel(level)
    (line,) = capsys.readouterr().err.splitlines()
    assert json.loads(line)["provider"] == "sim"
