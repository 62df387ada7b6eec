"""The parameters of one request, which are the plugin's own."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from marshmallow import Schema, ValidationError

from marketd.domain.errors import InvalidInput

# A key that can be said in a sentence as it stands.
_SPEAKABLE = re.compile(r"\w[\w.-]{0,49}")


def load_params(provider: str, schema_class: type[Schema], params: Mapping[str, str]) -> dict[str, Any]:
    """`params` as the plugin's schema reads them; InvalidInput names a wrong one."""
    schema = _schema(schema_class)
    try:
        loaded: dict[str, Any] = schema.load(params)
    except ValidationError as error:
        field, reason = next(iter(error.messages_dict.items()))
        if field in schema.fields:
            told = f"{field} does not fit: {' '.join(map(str, reason))}"
            raise InvalidInput(told, field=field) from None
        allowed = ", ".join(schema.fields) or "no parameters of its own"
        what = field if _SPEAKABLE.fullmatch(field) else "A key"
        told = f"{what} is not a parameter here; {provider} takes {allowed}."
        raise InvalidInput(told, field=field[:50]) from None
    return loaded


@lru_cache
def _schema(schema_class: type[Schema]) -> Schema:
    """Made once: that takes longer than reading the parameters of a request."""
    return schema_class()
