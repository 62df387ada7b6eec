"""Values to bytes, for clients: JSON, where NaN and the infinities become text, and MessagePack."""

from __future__ import annotations

import math
from typing import Any

import orjson
import ormsgpack

# About how many times the names beside a list of numbers hold an n.
_FEW = 32


def to_json(value: Any) -> bytes:
    """JSON of dicts, lists, tuples, text, numbers and None.

    None is `null`; NaN and the infinities, which JSON has no number for, are `"NaN"`, `"Infinity"` and
    `"-Infinity"`.
    """
    encoded = orjson.dumps(value)
    # orjson writes None and what is not finite alike, as null: without one there is nothing to mend.
    return orjson.dumps(_mended(value)) if _has_null(encoded) else encoded


def to_msgpack(value: Any) -> bytes:
    """MessagePack of the same values; NaN and the infinities are floats there."""
    return ormsgpack.packb(value)


def _mended(value: Any) -> Any:
    """`value` with text for what is not finite."""
    if isinstance(value, float):
        if math.isfinite(value):
            return value
        return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")
    if isinstance(value, (list, tuple)):
        return [_mended(item) for item in value]
    if isinstance(value, dict):
        return {key: _member(item) for key, item in value.items()}
    return value


def _member(value: Any) -> Any:
    """Like `_mended`, sparing a long list that needs it not because a member beside it is null."""
    if not isinstance(value, (list, tuple)):
        return _mended(value)
    encoded = orjson.dumps(value)
    return _mended(value) if _has_null(encoded) else orjson.Fragment(encoded)


def _has_null(encoded: bytes) -> bool:
    """`b"null" in encoded`, in a fiftieth of the time where most of it is numbers: they hold no n."""
    at = encoded.find(b"n")
    for _ in range(_FEW):
        if at < 0 or encoded.startswith(b"null", at):
            return at >= 0
        at = encoded.find(b"n", at + 1)
    return encoded.find(b"null", at) >= 0
