"""The addresses that plugins add: each below its plugin's name, and guarded as its providers are."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator, Sequence
from typing import Any

from aiohttp import web

from marketd.domain.errors import MarketdError, ProviderFailed, ProviderTimeout
from marketd.encoding import to_json
from marketd.metrics import Metrics
from marketd.plugins.extension import Route
from marketd.plugins.loader import Extended
from marketd.web.errors import Handler
from marketd.web.validation import QUERY, operation

log = logging.getLogger(__name__)


def plugin_routes(
    extensions: Sequence[Extended], *, timeout_ms: int, metrics: Metrics
) -> Iterator[web.RouteDef]:
    """A route for each that an extension declares."""
    for plugin, _, routes in extensions:
        for route in routes:
            handler = _handler(plugin, route, timeout_s=timeout_ms / 1000, metrics=metrics)
            yield web.get(f"/api/v1/plugins/{plugin}/{route.path}", handler, allow_head=False)


def _handler(plugin: str, route: Route, *, timeout_s: float, metrics: Metrics) -> Handler:
    answers = {} if route.answer is None else {200: (route.answer, "What the plugin answers.")}

    async def handle(request: web.Request) -> web.StreamResponse:
        query: dict[str, Any] = request[QUERY]
        try:
            async with asyncio.timeout(timeout_s):
                body = to_json(await route.handle(query))
        except Exception as error:
            metrics.extension_failures.labels(plugin).inc()
            # At debug, since any client may ask for it, as often as it likes.
            log.debug("plugin route failed plugin=%s path=%s", plugin, route.path, exc_info=error)
            raise _told(plugin, error, timeout_s) from error
        return web.Response(body=body, content_type="application/json")

    handle.__name__ = f"get_{plugin}_{route.path}".replace("/", "_").replace("-", "_")
    described = operation("plugins", route.summary, query=route.query, answers=answers)
    wrapped: Handler = described(handle)
    return wrapped


def _told(plugin: str, error: Exception, timeout_s: float) -> MarketdError:
    """What a client is told of an error: of one that is the plugin's own, only the kind."""
    if isinstance(error, MarketdError):
        return error
    if isinstance(error, TimeoutError):
        return ProviderTimeout(f"The plugin {plugin} did not answer within {timeout_s:g} s.")
    return ProviderFailed(f"The plugin {plugin} failed with {type(error).__name__}.")
