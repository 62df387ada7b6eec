"""What lies below the application: connections whose broken HTTP gets a problem for an answer, too."""

from __future__ import annotations

import asyncio
import logging
from http import HTTPStatus
from typing import Any

from aiohttp import web

from marketd.web.errors import mistake, problem_of_http

log = logging.getLogger(__name__)


class Runner(web.AppRunner):
    """An AppRunner over connections of ours, without an access log."""

    async def _make_server(self) -> web.Server:
        server = await super()._make_server()
        return _Server(server.request_handler, request_factory=server.request_factory)


class _Server(web.Server):
    def __call__(self) -> web.RequestHandler:
        # No address takes a compressed body, so none is unpacked to see how large it is.
        loop = asyncio.get_running_loop()
        no_log: Any = None
        return _Connection(self, loop=loop, access_log=no_log, auto_decompress=False)


class _Connection(web.RequestHandler):
    __slots__ = ()

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """The last answer on a connection: what follows on it can no longer be understood."""
        if request.writer.output_size > 0:
            raise ConnectionError("the response was under way when the request turned out to be broken")
        if status == HTTPStatus.BAD_REQUEST:
            log.debug("broken request reason=%r", message)
            response = problem_of_http(web.HTTPBadRequest())
        else:
            log.error("response failed", exc_info=exc)
            response = mistake()
        response.force_close()
        return response

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        # What aiohttp refuses before the application's middlewares have a say.
        if isinstance(resp, web.HTTPException):
            resp = problem_of_http(resp)
        return await super().finish_response(request, resp, start_time)
