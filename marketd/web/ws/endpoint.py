"""The address of the stream: the handshake, and the goodbye to every client at shutdown."""

from __future__ import annotations

import asyncio
from http import HTTPStatus

from aiohttp import WSCloseCode, web

from marketd.metrics import Metrics
from marketd.streaming.messages import Format
from marketd.streaming.outbox import Postman
from marketd.web.errors import problem
from marketd.web.keys import MARKET, STREAM_CONFIG, SUBSCRIPTIONS, TAPES
from marketd.web.schemas import NoQuery
from marketd.web.validation import takes
from marketd.web.ws.connection import Connection


class StreamEndpoint:
    """Serves `/api/v1/stream` and knows who is connected."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._postman = Postman(metrics)
        self._connections: set[Connection] = set()

    @takes(NoQuery)
    async def handle(self, request: web.Request) -> web.StreamResponse:
        """A client's whole stay."""
        app = request.app
        limits = app[STREAM_CONFIG]
        socket = web.WebSocketResponse(
            heartbeat=limits.heartbeat / 1000,
            max_msg_size=limits.max_message,
            # One frame serves every client of a stream; compressed, it would not.
            compress=False,
            protocols=[one.value for one in Format],
        )
        if not socket.can_prepare(request):
            return _upgrade_required()
        await socket.prepare(request)
        connection = Connection(
            socket,
            Format(socket.ws_protocol or Format.JSON),
            request=request,
            postman=self._postman,
            market=app[MARKET],
            subscriptions=app[SUBSCRIPTIONS],
            tapes=app[TAPES],
            limits=limits,
            metrics=self._metrics,
        )
        self._connections.add(connection)
        try:
            await connection.run()
        finally:
            self._connections.discard(connection)
        return socket

    async def shutdown(self, _: web.Application) -> None:
        """Sends every client away, to come back when the next process is up."""
        goodbyes = [one.close(WSCloseCode.GOING_AWAY, "going away") for one in list(self._connections)]
        await asyncio.gather(*goodbyes, return_exceptions=True)


def _upgrade_required() -> web.Response:
    sentence = "This address speaks WebSocket alone, version 13."
    response = problem(HTTPStatus.UPGRADE_REQUIRED, "upgrade_required", sentence)
    response.headers.update({"Upgrade": "websocket", "Sec-WebSocket-Version": "13"})
    return response
