"""One connection to one of Alpaca's streams, from its handshake to its end."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import aiohttp
import orjson

from marketd.domain.errors import MarketdError, ProviderFailed, ProviderTimeout
from marketd.plugins.http import http_error
from marketd_alpaca.api import NAME, stream_error
from marketd_alpaca.inbox import Inbox, Message

Key = tuple[str, str]

_CHANNELS = {"b": "bars", "u": "updatedBars", "t": "trades"}
_PATIENCE_S = 10.0
_HEARTBEAT_S = 20.0
# Nothing for so long, and somebody gives up: perhaps it is the connection that is mute.
_QUIET_S = 60.0
# Errors that say no to one subscription, and not to the whole connection.
_OF_A_SUBSCRIPTION = (400, 405, 409, 410)


class _Refused(Exception):
    """Alpaca has answered a subscription with an error."""

    def __init__(self, code: Any) -> None:
        super().__init__(code)
        self.code = code


class Connection:
    """Subscribes to what its inboxes want, and hangs up when there is none.

    `is_over` as soon as it takes no more inboxes: then another one is wanted.
    """

    def __init__(self, url: str, credentials: Mapping[str, Any]) -> None:
        self.is_over = False
        self._url = url
        self._feed = url.rpartition("/")[2]
        self._credentials = credentials
        self._inboxes: set[Inbox] = set()
        self._by_key: dict[Key, set[Inbox]] = defaultdict(set)
        self._subscribed: set[Key] = set()
        self._changed = asyncio.Event()
        self._reply: asyncio.Future[None] | None = None
        self._heard_s = 0.0
        self._is_doubted = False

    def add(self, inbox: Inbox) -> None:
        self._inboxes.add(inbox)
        for key in inbox.keys:
            self._by_key[key].add(inbox)
        self._changed.set()

    def remove(self, inbox: Inbox) -> None:
        if inbox not in self._inboxes:
            return
        self._inboxes.remove(inbox)
        for key in inbox.keys:
            self._by_key[key].discard(inbox)
            if not self._by_key[key]:
                del self._by_key[key]
        quiet_s = asyncio.get_running_loop().time() - self._heard_s
        self._is_doubted |= bool(self._subscribed) and quiet_s > _QUIET_S
        self._changed.set()

    async def run(self) -> Exception:
        """Ends when nobody follows any more, or with a failure, which all are told; returns which."""
        failure: Exception = ProviderFailed(f"{NAME} is closed.")
        try:
            await self._converse()
        except Exception as error:
            failure = _told(error)
        finally:
            self.is_over = True
            for inbox in self._inboxes:
                inbox.fail(failure)
        return failure

    async def _converse(self) -> None:
        async with aiohttp.ClientSession() as session:
            async with asyncio.timeout(_PATIENCE_S):
                socket = await session.ws_connect(self._url, heartbeat=_HEARTBEAT_S)
            async with socket:
                async with asyncio.timeout(_PATIENCE_S):
                    await self._authenticate(socket)
                tasks = [asyncio.create_task(one) for one in (self._hear(socket), self._ask(socket))]
                try:
                    done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                    for task in done:
                        task.result()
                finally:
                    for task in tasks:
                        task.cancel()
                    await asyncio.gather(*tasks, return_exceptions=True)

    async def _authenticate(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        await self._succeed(socket)
        await socket.send_json({"action": "auth", **self._credentials})
        await self._succeed(socket)
        self._heard_s = asyncio.get_running_loop().time()

    async def _succeed(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        for message in await _received(socket):
            if message["T"] == "error":
                raise stream_error(message.get("code"), self._feed)

    async def _hear(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        """Hands on what comes in, a batch a symbol and frame, until it raises."""
        while True:
            batches: dict[Inbox, list[Message]] = defaultdict(list)
            for message in await _received(socket):
                kind = message["T"]
                if kind in _CHANNELS:
                    for inbox in self._by_key.get((_CHANNELS[kind], message["S"]), ()):
                        batches[inbox].append(message)
                elif kind == "subscription":
                    self._answered(None)
                elif kind == "error":
                    self._answered(message.get("code"))
            for inbox, batch in batches.items():
                inbox.put(batch)
            if batches:
                self._heard_s = asyncio.get_running_loop().time()

    def _answered(self, code: Any) -> None:
        reply, self._reply = self._reply, None
        if reply is not None and not reply.done():
            if code is None:
                return reply.set_result(None)
            if code in _OF_A_SUBSCRIPTION:
                return reply.set_exception(_Refused(code))
        if code is not None:
            raise stream_error(code, self._feed)
        return None

    async def _ask(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        """Keeps what is subscribed to in step with what is wanted, until nothing is."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            if not self._inboxes:
                self.is_over = True
                return
            if self._is_doubted:
                raise ProviderFailed(f"{NAME}'s stream says nothing; it is begun anew.")
            if unwanted := self._subscribed - self._by_key.keys():
                await self._request(socket, "unsubscribe", unwanted)
                self._subscribed -= unwanted
            if new := self._by_key.keys() - self._subscribed:
                await self._subscribe(socket, new)

    async def _subscribe(self, socket: aiohttp.ClientWebSocketResponse, keys: set[Key]) -> None:
        """All at once; where that is refused, in halves, until it is clear which symbol it is."""
        try:
            await self._request(socket, "subscribe", keys)
        except _Refused as refused:
            symbols = sorted({symbol for _, symbol in keys})
            if len(symbols) == 1:
                for inbox in {one for key in keys for one in self._by_key.get(key, ())}:
                    inbox.fail(stream_error(refused.code, self._feed))
                    self.remove(inbox)
                return
            first = set(symbols[: len(symbols) // 2])
            await self._subscribe(socket, {key for key in keys if key[1] in first})
            await self._subscribe(socket, {key for key in keys if key[1] not in first})
        else:
            self._subscribed |= keys

    async def _request(
        self, socket: aiohttp.ClientWebSocketResponse, action: str, keys: Iterable[Key]
    ) -> None:
        wanted: dict[str, list[str]] = defaultdict(list)
        for channel, symbol in sorted(keys):
            wanted[channel].append(symbol)
        self._reply = reply = asyncio.get_running_loop().create_future()
        async with asyncio.timeout(_PATIENCE_S):
            await socket.send_json({"action": action, **wanted})
            await reply


async def _received(socket: aiohttp.ClientWebSocketResponse) -> Sequence[Message]:
    message = await socket.receive()
    if message.type not in (aiohttp.WSMsgType.TEXT, aiohttp.WSMsgType.BINARY):
        raise ProviderFailed(f"{NAME} hung up.")
    try:
        messages = orjson.loads(message.data)
        if isinstance(messages, list) and all(isinstance(one["T"], str) for one in messages):
            return messages
    except (ValueError, TypeError, LookupError):
        pass
    raise ProviderFailed(f"{NAME}'s stream sent something that cannot be read.")


def _told(error: Exception) -> Exception:
    """The error in marketd's words, where it is known what it means."""
    match error:
        case MarketdError():
            return error
        case aiohttp.WSServerHandshakeError():
            return http_error(NAME, error.status)
        case TimeoutError():
            return ProviderTimeout(f"{NAME}'s stream did not answer in time.")
        case aiohttp.ClientError() | OSError():
            return ProviderFailed(f"{NAME} cannot be reached.")
    return error
