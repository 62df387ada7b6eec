"""The address of the stream: the handshake, and the goodbye to every client at shutdown."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from http import HTTPStatus

from aiohttp import WSCloseCode, web

from marketd.domain.errors import LimitExceeded
from marketd.encoding import to_json, to_msgpack
from marketd.metrics import Metrics
from marketd.streaming.broadcast import BroadcastManager
from marketd.streaming.messages import Format
from marketd.web.errors import problem
from marketd.web.keys import MARKET, STREAM_CONFIG, SUBSCRIPTIONS, TAPES, TICK_BARS
from marketd.web.schemas import NoQuery
from marketd.web.validation import takes
from marketd.web.ws.connection import Connection
from marketd.web.ws.limits import Places


class StreamEndpoint:
    """Serves `/api/v1/stream` and knows who is connected."""

    def __init__(self, broadcast: BroadcastManager, metrics: Metrics) -> None:
        self._broadcast = broadcast
        self._metrics = metrics
        self._places = Places()
        self._connections: set[Connection] = set()
        metrics.stream_queued.set_function(lambda: sum(one.queued for one in self._connections))

    @takes(NoQuery)
    async def handle(self, request: web.Request) -> web.StreamResponse:
        """A client's whole stay."""
        app = request.app
        limits = app[STREAM_CONFIG]
        socket = _Socket(
            heartbeat=limits.heartbeat / 1000,
            max_msg_size=limits.max_message,
            # One frame serves every client of a stream; compressed, it would not.
            compress=False,
            protocols=[one.value for one in Format],
        )
        if not socket.can_prepare(request):
            return _upgrade_required()
        address = request.remote or ""
        await socket.prepare(request)
        how = Format(socket.ws_protocol or Format.JSON)
        try:
            self._places.take(address, limits)
        except LimitExceeded as error:
            self._metrics.stream_refused.inc()
            await _refuse(socket, how, error)
            return socket
        connection = Connection(
            socket,
            how,
            request=request,
            postman=self._broadcast,
            market=app[MARKET],
            subscriptions=app[SUBSCRIPTIONS],
            tapes=app[TAPES],
            tick_bars=app[TICK_BARS],
            limits=limits,
            metrics=self._metrics,
        )
        socket.too_big = connection.too_big
        self._connections.add(connection)
        try:
            await connection.run()
        finally:
            self._connections.discard(connection)
            self._places.give_back(address)
        return socket

    async def shutdown(self, _: web.Application) -> None:
        """Sends every client away, to come back when the next process is up."""
        goodbyes = [one.close(WSCloseCode.GOING_AWAY, "going away") for one in list(self._connections)]
        await asyncio.gather(*goodbyes, return_exceptions=True)


class _Socket(web.WebSocketResponse):
    """A socket that tells its client when a message was too big, instead of only hanging up."""

    too_big: Callable[[], None]

    async def close(
        self, *, code: int = WSCloseCode.OK, message: bytes = b"", drain: bool = True
    ) -> bool:
        if code == WSCloseCode.MESSAGE_TOO_BIG:
            self.too_big()
        return await super().close(code=code, message=message, drain=drain)


async def _refuse(socket: web.WebSocketResponse, how: Format, error: LimitExceeded) -> None:
    """Sends a client away, in words that a browser can read, too."""
    body = {"type": "error", "id": "", "code": error.code, "message": error.message}
    if how is Format.JSON:
        await socket.send_str(to_json(body).decode())
    else:
        await socket.send_bytes(to_msgpack(body))
    await socket.close(code=WSCloseCode.POLICY_VIOLATION, message=b"too many clients")


def _upgrade_required() -> web.Response:
    sentence = "This address speaks WebSocket alone, version 13."
    response = problem(HTTPStatus.UPGRADE_REQUIRED, "upgrade_required", sentence)
    response.headers.update({"Upgrade": "websocket", "Sec-WebSocket-Version": "13"})
    return response
