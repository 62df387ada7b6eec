"""The one socket that an account may have to each of Alpaca's streams, shared by all who follow."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from marketd.domain.errors import ProviderFailed
from marketd_alpaca.connection import Connection
from marketd_alpaca.inbox import Inbox, Message

# A key that was refused is not tried again before that: it will hardly become a right one.
_REFUSED_S = 300.0


class SharedStream:
    """Connects when somebody follows and hangs up when nobody does.

    After a failure, which every follower is told, the next one to follow begins it anew.
    """

    def __init__(self, url: str, credentials: Mapping[str, Any]) -> None:
        self._url = url
        self._credentials = credentials
        self._connection: Connection | None = None
        self._running: asyncio.Task[None] | None = None
        self._refusal = ""
        self._refused_until_s = 0.0

    @asynccontextmanager
    async def following(
        self, symbol: str, *channels: str
    ) -> AsyncIterator[AsyncIterator[Sequence[Message]]]:
        """The messages of `symbol` in `channels` from now on, in batches; raises what ends them."""
        if self._refusal and asyncio.get_running_loop().time() < self._refused_until_s:
            raise ProviderFailed(self._refusal, transient=False)
        connection = self._connection
        if connection is None or connection.is_over:
            connection = self._connection = Connection(self._url, self._credentials)
            self._running = asyncio.create_task(self._run(connection, self._running))
        inbox = Inbox(symbol, channels)
        connection.add(inbox)
        try:
            yield inbox.batches()
        finally:
            connection.remove(inbox)

    async def close(self) -> None:
        if self._running is not None:
            self._running.cancel()
            await asyncio.wait([self._running])

    async def _run(self, connection: Connection, before: asyncio.Task[None] | None) -> None:
        if before is not None:
            # Two at once are one too many.
            await asyncio.wait([before])
        failure = await connection.run()
        if isinstance(failure, ProviderFailed) and not failure.transient:
            self._refusal = failure.message
            self._refused_until_s = asyncio.get_running_loop().time() + _REFUSED_S
