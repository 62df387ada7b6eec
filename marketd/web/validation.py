"""Input validation by aiohttp-apispec's decorators and middleware, with our own errors."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn, TypeVar

import orjson
from aiohttp import web
from aiohttp_apispec import docs, json_schema, querystring_schema, response_schema, validation_middleware
from marshmallow import Schema, ValidationError
from webargs.aiohttpparser import AIOHTTPParser

from marketd.domain.errors import InvalidInput

__all__ = ["BODY", "QUERY", "install", "operation", "refused", "takes", "validation_middleware"]

T = TypeVar("T", bound=Callable[..., Any])

QUERY = web.RequestKey("QUERY", dict[str, Any])
BODY = web.RequestKey("BODY", dict[str, Any])
# Where the middleware would put input from elsewhere: nobody reads it.
_DATA = web.RequestKey("DATA", dict[str, Any])


def takes(query: type[Schema]) -> Callable[[T], T]:
    """Validates the query string of a handler into `request[QUERY]`."""

    def wrap(handler: T) -> T:
        querystring_schema(query, put_into=QUERY)(handler)
        return handler

    return wrap


def operation(
    tag: str,
    summary: str,
    *,
    query: type[Schema],
    answers: Mapping[int, tuple[type[Schema], str]],
    body: type[Schema] | None = None,
    description: str = "",
    produces: Sequence[str] = ("application/json",),
) -> Callable[[T], T]:
    """Describes a handler once, for the validation and for the OpenAPI document.

    `query` is what it `takes`; `body` the JSON object that it takes, into `request[BODY]`; `answers`
    gives, for each status, the schema of the body and what it means; `produces` the types of a body,
    that of the schema first.
    """

    def wrap(handler: T) -> T:
        for status, (schema, meaning) in answers.items():
            response_schema(schema, status, description=meaning)(handler)
        if body is not None:
            json_schema(body, put_into=BODY)(handler)
        docs(tags=[tag], summary=summary, description=description, produces=list(produces))(handler)
        return takes(query)(handler)

    return wrap


class _Parser(AIOHTTPParser):
    async def load_json(self, req: web.Request, schema: Schema) -> dict[str, Any]:
        """The body: a JSON object, said to be one; no body at all is an empty one."""
        content = await req.read()
        if not content:
            return {}
        try:
            body = orjson.loads(content) if req.content_type == "application/json" else None
        except ValueError:
            body = None
        if not isinstance(body, dict):
            raise InvalidInput("body has to be a JSON object, sent as application/json.", field="body")
        return body

    def handle_error(self, error: ValidationError, *args: Any, **kwargs: Any) -> NoReturn:
        # webargs puts the place of the input around the fields: {"querystring": {"limit": [...]}}.
        (by_field,) = error.messages_dict.values()
        raise refused(by_field)


def refused(by_field: Mapping[str, Any]) -> InvalidInput:
    """The error of the first field that a schema has refused, as a sentence."""
    field, reason = next(iter(by_field.items()))
    while not isinstance(reason, str):
        # A field's reasons are a list; those of what it holds, a dict.
        reason = next(iter(reason.values() if isinstance(reason, dict) else reason))
    return InvalidInput(f"{field[:50]} {reason}", field=field[:50])


def install(app: web.Application) -> None:
    """Gives the middleware the parser that it looks for in the application.

    aiohttp-apispec's own registration is not used: it takes the schemas off the handlers, so that a
    second application in one process would have none, and it describes the routes in Swagger 2.0.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", web.NotAppKeyWarning)
        app["_apispec_parser"] = _Parser()
        app["_apispec_request_data_name"] = _DATA
