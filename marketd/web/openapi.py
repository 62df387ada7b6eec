"""The description of the interface: OpenAPI 3.1, made from what the handlers are decorated with."""

from __future__ import annotations

import re
from typing import Any

from aiohttp import web
from apispec import APISpec
from apispec.ext.marshmallow import MarshmallowPlugin
from marshmallow import Schema

from marketd import __version__
from marketd.web import answers

_PROBLEMS = "A problem: the status and its code say which."


def describe(app: web.Application) -> dict[str, Any]:
    """The OpenAPI 3.1 document of every handler of `app` that is an `operation`."""
    marshmallow = MarshmallowPlugin(schema_name_resolver=_name)
    spec = APISpec(
        title="marketd",
        version=__version__,
        openapi_version="3.1.0",
        info={
            "description": "Bars of any provider: kept, filled and live. "
            "Times are epoch milliseconds UTC; every range is half-open. "
            "Live bars come over the WebSocket `/api/v1/stream`."
        },
        plugins=[marshmallow],
    )
    for route in app.router.routes():
        described: dict[str, Any] | None = getattr(route.handler, "__apispec__", None)
        if described is None or "summary" not in described or route.resource is None:
            continue
        operation = {
            "operationId": route.handler.__name__,
            "tags": described["tags"],
            "summary": described["summary"],
            "description": described["description"],
            "parameters": [
                *_places(route.resource.canonical),
                *_parameters(marshmallow, described["schemas"]),
            ],
            "responses": _responses(described["responses"], *described["produces"]),
        }
        bodies = [one["schema"] for one in described["schemas"] if one["location"] == "json"]
        for body in bodies:
            operation["requestBody"] = {
                "required": any(field.required for field in body.fields.values()),
                "content": {"application/json": {"schema": body}},
            }
        spec.path(path=route.resource.canonical, operations={route.method.lower(): operation})
    document: dict[str, Any] = spec.to_dict()
    return document


def _places(path: str) -> list[dict[str, Any]]:
    """The parameters that stand in the path itself: ids, as answers give them."""
    schema = {"type": "string", "pattern": "^[0-9a-f]{32}$"}
    return [
        {"name": name, "in": "path", "required": True, "schema": schema}
        for name in re.findall(r"{(\w+)}", path)
    ]


def _parameters(marshmallow: MarshmallowPlugin, inputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    assert marshmallow.converter is not None  # noqa: S101 - set by APISpec
    return [
        parameter
        for one in inputs
        if one["location"] == "querystring"
        for parameter in marshmallow.converter.schema2parameters(one["schema"], location="query")
    ]


def _responses(described: dict[str, Any], produces: str, *others: str) -> dict[str, Any]:
    """What is answered: `produces` by the schema, `others` are the same in formats without one."""
    responses: dict[str, Any] = {
        status: {
            "description": answer["description"],
            "content": {produces: {"schema": answer["schema"]}} | {other: {} for other in others},
        }
        for status, answer in described.items()
    }
    if not responses:
        responses["200"] = {"description": "The document.", "content": {produces: {}}}
    responses["default"] = {
        "description": _PROBLEMS,
        "content": {"application/problem+json": {"schema": answers.ProblemOut}},
    }
    return responses


def _name(schema: Schema | type[Schema] | str) -> str:
    cls = schema if isinstance(schema, type) else type(schema)
    return cls.__name__.removesuffix("Out")
