"""Clients that never read cost nobody but themselves: they are cut, and nobody waits for them."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from urllib.parse import urlsplit

import pytest
from aiohttp import ClientSession
from asking import NOW, Api, M, Start
from talking import JSON, PATH, Socket, connected

from marketd.clock import ManualClock
from marketd.config import StreamConfig
from marketd.config.settings import Millis
from marketd.daemon import Daemon
from marketd.supervisor import cancel_all

MANY = 100
NAMES = {"market": "crypto", "provider": "sim", "symbols": ["BTC/USD"]}
LIVE = {"type": "subscribe", **NAMES, "timeframe": "1s"}
A_WEEK = {"type": "subscribe", **NAMES, "timeframe": "1m", "since": NOW - 7 * 24 * 60 * M}
HANDSHAKE = (
    f"GET {PATH} HTTP/1.1\r\nHost: deaf\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: bWFya2V0ZCBiZW5jaG1hcg==\r\n"
    f"Sec-WebSocket-Protocol: {JSON}\r\n\r\n"
).encode()


async def deaf(daemon: Daemon) -> socket.socket:
    """A client that asks for a week of minutes, and does not even take the answer to its handshake."""
    loop = asyncio.get_running_loop()
    client = socket.socket()
    client.setblocking(False)
    # The kernels at both ends take little of what is not read: they reckon in segments.
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 536)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4_096)
    url = urlsplit(daemon.url)
    await loop.sock_connect(client, (url.hostname, url.port))
    asks = json.dumps(A_WEEK).encode()
    # Clients mask what they say; with a mask of zeros it stays as it is.
    await loop.sock_sendall(client, HANDSHAKE + struct.pack("!BBH4x", 0x81, 0xFE, len(asks)) + asks)
    return client


@pytest.fixture
async def strict_daemon(start: Start) -> Daemon:
    return await start(stream=StreamConfig(patience=Millis(500)))


async def test_a_hundred_that_never_read_are_cut_and_a_hundred_that_do_miss_nothing(
    strict_daemon: Daemon, clock: ManualClock
) -> None:
    daemon = strict_daemon

    def count(name: str) -> float:
        return daemon.metrics.registry.get_sample_value(f"marketd_stream_{name}") or 0

    async with ClientSession(daemon.url) as session:
        readers = [await connected(session) for _ in range(MANY)]
        for reader in readers:
            assert (await reader.ask(LIVE))["type"] == "subscribed"
        heard: list[list[int]] = [[] for _ in readers]

        async def listen(reader: Socket, times: list[int]) -> None:
            while True:
                message = await reader.hear_of("bar")
                if message["closed"]:
                    times.append(message["bar"][0])

        listening = {asyncio.create_task(listen(*each)) for each in zip(readers, heard, strict=True)}
        stalled = [await deaf(daemon) for _ in range(MANY)]
        most_queued = 0.0
        async with asyncio.timeout(10):
            while count("cut_total") < MANY or count("clients") > MANY:
                clock.advance(1_000)
                await asyncio.sleep(0.02)
                most_queued = max(most_queued, count("queued_bytes"))
        # What waits for one is a page of history beside what a connection keeps before it is full.
        assert 0 < most_queued < MANY * 400_000
        end_ms = clock.now_ms()
        clock.advance(M)
        async with ClientSession(daemon.url) as another:
            wanted = await Api(another).ohlcv("BTC/USD", "1s", since=NOW, before=end_ms, limit=10_000)
        truth = [bar[0] for bar in wanted["bars"]]
        async with asyncio.timeout(10):
            while any(len(times) < len(truth) for times in heard):  # noqa: ASYNC110
                await asyncio.sleep(0.02)
        await cancel_all(listening)
        assert all(times[: len(truth)] == truth for times in heard)
        assert (count("clients"), count("cut_total"), count("queued_bytes")) == (MANY, MANY, 0)
    for client in stalled:
        client.close()
