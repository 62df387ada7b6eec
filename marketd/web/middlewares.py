"""What happens around every request: counting it, and refusing what no handler should see."""

from __future__ import annotations

import time

from aiohttp import web

from marketd.domain.errors import InvalidInput
from marketd.web.errors import Handler
from marketd.web.keys import GATE, METRICS

# Whoever looks how the daemon or a backfill is doing is not to hold the backfill up.
_LOOKING = ("/api/v1/backfills", "/healthz", "/readyz", "/metrics")


@web.middleware
async def measured(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Counts and times the request by its route, never by its path: paths are anybody's text."""
    resource = request.match_info.route.resource
    route = resource.canonical if resource is not None else "unknown"
    metrics = request.app[METRICS]
    started_s = time.perf_counter()
    if "Upgrade" in request.headers or route.startswith(_LOOKING):
        # A stream stays for long, and its client does not wait for an answer.
        response = await handler(request)
    else:
        with request.app[GATE].urgent():
            response = await handler(request)
    if not isinstance(response, web.WebSocketResponse):
        # A stream is over when its client leaves: how long it stayed is no time to answer.
        metrics.http_seconds.labels(route).observe(time.perf_counter() - started_s)
    method = request.method if request.method in _METHODS else "other"
    metrics.http_requests.labels(method, route, response.status).inc()
    return response


@web.middleware
async def strict(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Refuses bodies over the bound, said in a header or not, and query keys given twice."""
    if (request.content_length or 0) > request.client_max_size:
        raise web.HTTPRequestEntityTooLarge(request.client_max_size, request.content_length or 0)
    if request.content_length is None and request.body_exists:
        try:
            await request.read()
        except web.RequestPayloadError:
            raise web.HTTPBadRequest from None
    seen: set[str] = set()
    # Of the pairs, since the keys alone come once each.
    for key, _ in request.query.items():
        if key in seen:
            raise InvalidInput(f"{key[:50]} is given more than once.", field=key[:50])
        seen.add(key)
    return await handler(request)


_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
