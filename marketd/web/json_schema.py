"""Marshmallow schemas of plugins as JSON schemas, for forms and clients that know no plugin."""

from __future__ import annotations

import functools
from typing import Any

import orjson
from apispec import APISpec
from apispec.ext.marshmallow import MarshmallowPlugin
from marshmallow import Schema, fields

from marketd.plugins import TimeField, TimeframeField

_COMPONENTS, _DEFINITIONS = b"#/components/schemas/", b"#/$defs/"


@functools.lru_cache(maxsize=256)
def json_schema(schema: type[Schema]) -> dict[str, Any]:
    """The JSON schema (2020-12) of what `schema` loads, whole in itself. Not to be changed."""
    marshmallow = MarshmallowPlugin()
    spec = APISpec(title="", version="", openapi_version="3.1.0", plugins=[marshmallow])
    converter: Any = marshmallow.converter
    converter.add_attribute_function(_own_kinds)
    document: dict[str, Any] = converter.schema2jsonschema(schema())
    if spec.components.schemas:
        document["$defs"] = dict(spec.components.schemas)
    text = orjson.dumps(document, default=str).replace(_COMPONENTS, _DEFINITIONS)
    whole: dict[str, Any] = orjson.loads(text)
    return whole


def _own_kinds(_: Any, field: fields.Field[Any], **options: Any) -> dict[str, Any]:
    """What marketd's own fields take."""
    if isinstance(field, TimeframeField):
        return {"type": "string", "pattern": "^[1-9][0-9]*[smhdwMy]$"}
    if isinstance(field, TimeField):
        return {"type": ["integer", "string", "null"] if field.allow_none else ["integer", "string"]}
    return {}
