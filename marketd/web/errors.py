"""Errors as RFC 9457 problems: a status, a stable code and one sentence that can be spoken."""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable
from http import HTTPStatus

from aiohttp import web

from marketd.domain.errors import (
    Conflict,
    InvalidInput,
    LimitExceeded,
    MarketdError,
    NotFound,
    NotReady,
    ProviderFailed,
    ProviderRateLimited,
    ProviderTimeout,
    StorageFailed,
    Unsupported,
)
from marketd.encoding import to_json

log = logging.getLogger(__name__)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

# The first that fits counts: children stand before their parents.
_STATUS: tuple[tuple[type[MarketdError], HTTPStatus], ...] = (
    (InvalidInput, HTTPStatus.BAD_REQUEST),
    (LimitExceeded, HTTPStatus.UNPROCESSABLE_ENTITY),
    (Conflict, HTTPStatus.CONFLICT),
    (NotFound, HTTPStatus.NOT_FOUND),
    (Unsupported, HTTPStatus.NOT_IMPLEMENTED),
    (NotReady, HTTPStatus.SERVICE_UNAVAILABLE),
    (StorageFailed, HTTPStatus.SERVICE_UNAVAILABLE),
    (ProviderRateLimited, HTTPStatus.TOO_MANY_REQUESTS),
    (ProviderTimeout, HTTPStatus.GATEWAY_TIMEOUT),
    (ProviderFailed, HTTPStatus.BAD_GATEWAY),
)
# A code stays what it is; Python 3.13 has given this status another name.
_CODES = {HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "request_entity_too_large"}
_RETRY_AFTER_S = 5


def problem(status: HTTPStatus, code: str, detail: str, *, field: str | None = None) -> web.Response:
    """A problem document; `field` names the input at fault."""
    body = {
        "type": "about:blank",
        "title": status.phrase,
        "status": status.value,
        "code": code,
        "detail": detail,
    }
    if field is not None:
        body["field"] = field
    return web.Response(body=to_json(body), status=status.value, content_type="application/problem+json")


def problem_of(error: MarketdError) -> web.Response:
    """The problem that a MarketdError is to a client."""
    status = next(
        (status for kind, status in _STATUS if isinstance(error, kind)), HTTPStatus.INTERNAL_SERVER_ERROR
    )
    field = error.field if isinstance(error, InvalidInput) else None
    response = problem(status, error.code, error.message, field=field)
    if isinstance(error, ProviderRateLimited) and error.retry_after_s is not None:
        response.headers["Retry-After"] = str(math.ceil(error.retry_after_s))
    elif status in (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE):
        response.headers["Retry-After"] = str(_RETRY_AFTER_S)
    return response


def problem_of_http(error: web.HTTPException) -> web.Response:
    """The problem that an error of aiohttp's own is to a client."""
    status = HTTPStatus(error.status)
    code = _CODES.get(status, status.name.lower())
    response = problem(status, code, _SENTENCES.get(status, f"{status.phrase}."))
    if "Allow" in error.headers:
        response.headers["Allow"] = error.headers["Allow"]
    return response


def mistake() -> web.Response:
    """The problem that a fault of marketd's own is to a client; whoever answers it has logged it."""
    return problem(
        HTTPStatus.INTERNAL_SERVER_ERROR, "internal", "marketd made a mistake; its log has the details."
    )


@web.middleware
async def errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Whatever is raised below becomes a problem."""
    try:
        return await handler(request)
    except MarketdError as error:
        return problem_of(error)
    except web.HTTPException as error:
        return problem_of_http(error)
    except Exception:
        log.exception("request failed method=%s path=%r", request.method, request.path)
        return mistake()


_SENTENCES = {
    HTTPStatus.BAD_REQUEST: "This request is not well-formed HTTP, or a line of it is too long.",
    HTTPStatus.NOT_FOUND: "There is nothing at this address; /docs lists what there is.",
    HTTPStatus.METHOD_NOT_ALLOWED: "This address does not take this method.",
    HTTPStatus.NOT_ACCEPTABLE: "None of the formats that the Accept header names is served here.",
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: "The body of this request is too large.",
    HTTPStatus.UNSUPPORTED_MEDIA_TYPE: "The body of this request has to be application/json.",
    HTTPStatus.EXPECTATION_FAILED: "The only expectation that is met here is 100-continue.",
}
