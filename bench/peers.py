"""The bare aiohttp servers that marketd is measured against: what one would write without it.

`python -m bench.peers ready FILE`: the bytes of FILE to every request.
`python -m bench.peers sqlite FILE`: bars out of that database, from `since`, `limit` of them.
`python -m bench.peers sends FILE`: FILE as a text message to every WebSocket client, when told to.
`python -m bench.peers ticks`: the time, as marketd would tell a bar, to every client ten times a second.
`python -m bench.peers joins FILE`: bars out of that database to each client that names a time.
"""

from __future__ import annotations

import asyncio
import socket
import sqlite3
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any

import orjson
from aiohttp import web

_STEP_S = 0.1
_NAMES = {"market": "crypto", "provider": "customer", "symbol": "LIVE0", "timeframe": "1s"}
_SINCE = "SELECT t, open, high, low, close, volume FROM bar WHERE series = 1 AND t >= ? ORDER BY t"


def ready(path: Path) -> web.Application:
    """The same ready bytes to everybody."""
    body = path.read_bytes()

    async def handle(request: web.Request) -> web.Response:
        return web.Response(body=body, content_type="application/json")

    return _application(handle)


def sqlite(path: Path) -> web.Application:
    """A query and its rows as JSON: one connection, nothing validated, nothing else to decide."""
    connection = sqlite3.connect(path)

    async def handle(request: web.Request) -> web.Response:
        bars = connection.execute(
            "SELECT t, open, high, low, close, volume FROM bar"
            " WHERE series = 1 AND t >= ? ORDER BY t LIMIT ?",
            (int(request.query["since"]), int(request.query["limit"])),
        ).fetchall()
        return web.Response(body=orjson.dumps({"bars": bars}), content_type="application/json")

    return _application(handle)


def sends(path: Path) -> web.Application:
    """A loop of `send_str` over the clients, for each line "<bursts> <messages a burst>" on stdin."""
    text = path.read_text()
    clients: set[web.WebSocketResponse] = set()

    async def obey() -> None:
        while line := await asyncio.to_thread(sys.stdin.readline):
            bursts, size = map(int, line.split())
            for _ in range(bursts * size):
                for client in clients:
                    await client.send_str(text)

    return _broadcasting(clients, obey)


def ticks(_: Path) -> web.Application:
    """What is new, to everybody, by a loop of `send_str`."""
    clients: set[web.WebSocketResponse] = set()

    async def say() -> None:
        while True:
            await asyncio.sleep(_STEP_S)
            bar = (0, 1.0, 1.0, 1.0, 1.0, time.monotonic())
            text = orjson.dumps({"type": "bar", **_NAMES, "bar": bar, "closed": False}).decode()
            for client in list(clients):
                with suppress(ConnectionError):
                    await client.send_str(text)

    return _broadcasting(clients, say)


def joins(path: Path) -> web.Application:
    """A query for each client that asks, and its rows as JSON."""
    connection = sqlite3.connect(path)

    async def handle(request: web.Request) -> web.WebSocketResponse:
        client = web.WebSocketResponse()
        await client.prepare(request)
        async for message in client:
            asked = (orjson.loads(message.data)["since"],)
            bars = connection.execute(_SINCE, asked).fetchall()
            await client.send_str(orjson.dumps({"type": "snapshot", "bars": bars}).decode())
        return client

    return _application(handle)


def _broadcasting(
    clients: set[web.WebSocketResponse], work: Callable[[], Coroutine[Any, Any, None]]
) -> web.Application:
    """An application that keeps the clients there are, while `work` is done beside it."""
    tasks: list[asyncio.Task[None]] = []

    async def handle(request: web.Request) -> web.WebSocketResponse:
        client = web.WebSocketResponse()
        await client.prepare(request)
        clients.add(client)
        async for _ in client:
            pass
        clients.discard(client)
        return client

    async def start(app: web.Application) -> None:
        tasks.append(asyncio.create_task(work()))

    app = _application(handle)
    app.on_startup.append(start)
    return app


def _application(handler: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> web.Application:
    app = web.Application()
    app.router.add_get("/{anything:.*}", handler)
    return app


if __name__ == "__main__":
    makers = {maker.__name__: maker for maker in (ready, sqlite, sends, ticks, joins)}
    listening = socket.create_server(("127.0.0.1", 0), backlog=1024)
    print(f"http://127.0.0.1:{listening.getsockname()[1]}", flush=True)
    web.run_app(makers[sys.argv[1]](Path(sys.argv[2])), sock=listening, access_log=None, print=None)
