"""The daemon's end: a second small application on a unix socket, for the same user alone."""

from __future__ import annotations

import logging
import os
import socket
import stat
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeAlias

from aiohttp import web

from marketd.control import wire
from marketd.control.address import reachable
from marketd.domain.bar import all_valid
from marketd.domain.errors import InvalidInput, MarketdError
from marketd.storage import Storage

log = logging.getLogger(__name__)

# A page of bars is a few hundred kilobytes.
_LARGEST_BODY = 16 << 20
# How long commands under way may take to end at shutdown.
_DRAIN_S = 2.0

_Handler: TypeAlias = Callable[[web.Request], Awaitable[web.StreamResponse]]

_STORAGE = web.AppKey("STORAGE", Storage)


class ControlServer:
    """Lets local commands use an open store; it is closed before the store is."""

    def __init__(self, storage: Storage, path: Path) -> None:
        self._path = path
        # A command that goes away ends what it asked for.
        self._runner = web.AppRunner(
            _application(storage),
            access_log=None,
            handle_signals=False,
            handler_cancellation=True,
            shutdown_timeout=_DRAIN_S,
        )
        self._listens = False

    async def open(self) -> None:
        """Listens, if it can: a socket that cannot be made is told in the log and costs only the
        commands."""
        await self._runner.setup()
        try:
            listener = _listener(self._path)
        except OSError as error:
            reason = error.strerror or error
            log.warning("no control socket, commands need a stopped daemon reason=%s", reason)
            return
        self._listens = True
        await web.SockSite(self._runner, listener).start()

    async def close(self) -> None:
        """Ends what is under way and takes the socket away."""
        await self._runner.cleanup()
        if self._listens:
            self._path.unlink(missing_ok=True)


def _listener(path: Path) -> socket.socket:
    """A socket at `path`, in place of one that a killed daemon left: the database's lock is held."""
    if os.path.lexists(path):
        if not stat.S_ISSOCK(path.lstat().st_mode):
            raise FileExistsError(f"{path.name} is there and is no socket")
        path.unlink()
    listener = socket.socket(socket.AF_UNIX)
    try:
        # The file has these rights from its first moment on.
        os.fchmod(listener.fileno(), 0o600)
        with reachable(path) as address:
            listener.bind(address)
    except BaseException:
        listener.close()
        raise
    return listener


def _application(storage: Storage) -> web.Application:
    app = web.Application(middlewares=[_answering], client_max_size=_LARGEST_BODY)
    app[_STORAGE] = storage
    app.add_routes(
        [
            web.post("/hello", _hello),
            web.post("/series", _series),
            web.post("/store", _store),
            web.post("/read", _read),
            web.post("/check", _check),
            web.post("/backup", _backup),
            web.post("/profile", _profile),
        ]
    )
    return app


@web.middleware
async def _answering(request: web.Request, handler: _Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except MarketdError as error:
        refusal = error
    except (TypeError, ValueError) as error:
        log.warning("command not understood path=%s", request.path, exc_info=error)
        refusal = InvalidInput("The daemon does not understand this command's version.", field="body")
    return web.Response(status=400, body=wire.pack([refusal.code, refusal.message]))


def _answer(value: Any) -> web.Response:
    return web.Response(body=wire.pack(value))


async def _body(request: web.Request) -> Any:
    return wire.unpack(await request.read())


async def _hello(request: web.Request) -> web.Response:
    return _answer(None)


async def _series(request: web.Request) -> web.Response:
    return _answer([wire.series_out(one) for one in await request.app[_STORAGE].series_list()])


async def _store(request: web.Request) -> web.Response:
    series, bars, covered, at_ms = await _body(request)
    of, page = wire.series_in(series), wire.bars_in(bars)
    if not all_valid(page, of.timeframe):
        raise InvalidInput("These are no valid bars of the series.", field="bars")
    stored = await request.app[_STORAGE].store(of, page, wire.covered_in(covered), at_ms=int(at_ms))
    return _answer(stored)


async def _read(request: web.Request) -> web.Response:
    series, span, limit, newest = await _body(request)
    read = await request.app[_STORAGE].read(
        wire.series_in(series), wire.span_in(span), limit=int(limit), newest=bool(newest)
    )
    return _answer(read)


async def _check(request: web.Request) -> web.Response:
    return _answer(await request.app[_STORAGE].check())


async def _backup(request: web.Request) -> web.Response:
    target, replace = await _body(request)
    await request.app[_STORAGE].back_up(Path(target), replace=bool(replace))
    return _answer(None)


async def _profile(request: web.Request) -> web.Response:
    return _answer(await request.app[_STORAGE].profile())
