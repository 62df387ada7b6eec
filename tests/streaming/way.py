"""A way to a server that may fall silent."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from urllib.parse import urlsplit, urlunsplit

from marketd.supervisor import cancel_all


class Way:
    """The way to a database, over which nothing passes while it is silent; it goes on after that."""

    def __init__(self, url: str) -> None:
        self._end = urlsplit(url)
        self._is_open = asyncio.Event()
        self._is_open.set()
        self._passing: dict[asyncio.Task[None], asyncio.StreamWriter] = {}
        self.url = ""

    async def __aenter__(self) -> Way:
        self._server = await asyncio.start_server(self._carry, "127.0.0.1", 0)
        port = self._server.sockets[0].getsockname()[1]
        self.url = urlunsplit(self._end).replace(f":{self._end.port}/", f":{port}/")
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        await cancel_all(self._passing)
        for writer in self._passing.values():
            writer.transport.abort()

    def silence(self) -> None:
        self._is_open.clear()

    def open(self) -> None:
        self._is_open.set()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there = await asyncio.open_connection(self._end.hostname, self._end.port)
        for source, sink in ((reader, there[1]), (there[0], writer)):
            self._passing[asyncio.create_task(self._pass(source, sink))] = sink

    async def _pass(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            while data := await source.read(65_536):
                await self._is_open.wait()
                sink.write(data)
        sink.close()
