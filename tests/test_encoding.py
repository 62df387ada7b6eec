"""What clients read is what there was: nothing, NaN and the infinities included."""

from __future__ import annotations

import json
import math
from typing import Any

import ormsgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from marketd.encoding import to_json, to_msgpack

TEXT = st.one_of(st.text(), st.sampled_from(["null", '"null"', "NaN", "Infinity", "\\", "\0"]))
SCALARS = st.one_of(st.none(), st.booleans(), st.integers(-(2**63), 2**64 - 1), st.floats(), TEXT)
BARS = st.lists(st.tuples(st.integers(0, 2**53), *[st.one_of(st.none(), st.floats())] * 5), max_size=5)
VALUES = st.recursive(
    st.one_of(SCALARS, BARS),
    lambda inner: st.one_of(
        st.lists(inner, max_size=5),
        st.tuples(inner, inner),
        st.dictionaries(TEXT, inner, max_size=5),
    ),
    max_leaves=30,
)


def told(value: Any) -> Any:
    """`value` as a client of the JSON form has it."""
    if isinstance(value, float) and not math.isfinite(value):
        return {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}[str(value)]
    if isinstance(value, list | tuple):
        return [told(item) for item in value]
    if isinstance(value, dict):
        return {key: told(item) for key, item in value.items()}
    return value


def listed(value: Any) -> Any:
    """`value` with lists for tuples."""
    if isinstance(value, list | tuple):
        return [listed(item) for item in value]
    if isinstance(value, dict):
        return {key: listed(item) for key, item in value.items()}
    return value


@given(VALUES)
def test_json_tells_every_value_apart(value: Any) -> None:
    assert repr(json.loads(to_json(value))) == repr(told(value))


@given(VALUES)
def test_messagepack_keeps_every_value(value: Any) -> None:
    assert repr(ormsgpack.unpackb(to_msgpack(value))) == repr(listed(value))


@pytest.mark.parametrize(
    ("value", "encoded"),
    [
        ([None, math.nan, math.inf, -math.inf, 0.1], b'[null,"NaN","Infinity","-Infinity",0.1]'),
        ({"bars": [(1, math.nan)], "token": None}, b'{"bars":[[1,"NaN"]],"token":null}'),
        ({"bars": [(1, 2.5)], "token": None}, b'{"bars":[[1,2.5]],"token":null}'),
        ({"symbol": "null"}, b'{"symbol":"null"}'),
        ({"n" * 99: math.inf}, b'{"%s":"Infinity"}' % (b"n" * 99)),
        (["n" * 99, None, -math.inf], b'["%s",null,"-Infinity"]' % (b"n" * 99)),
        (math.nan, b'"NaN"'),
        (None, b"null"),
    ],
)
def test_json_has_text_for_what_it_has_no_number_for(value: Any, encoded: bytes) -> None:
    assert to_json(value) == encoded
