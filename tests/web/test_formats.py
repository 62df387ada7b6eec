"""Bars as JSON, CSV and Arrow: one answer, whichever way it is written."""

from __future__ import annotations

import csv
import io
import math
from typing import Any

import orjson
import ormsgpack
import pyarrow as pa
import pytest
from asking import START, Api, M, worded
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict

from marketd.encoding import to_json, to_msgpack

JSON, CSV, ARROW = "application/json", "text/csv", "application/vnd.apache.arrow.stream"
PATH = "/api/v1/ohlcv"
ODD = {"market": "odd", "provider": "files", "symbol": "ODD", "timeframe": "1m"}
COLUMNS = ["timestamp_ms", "open", "high", "low", "close", "volume"]
NUMBERS = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


async def fetched(api: Api, kind: str, **query: Any) -> tuple[bytes, CIMultiDict[str]]:
    async with api.session.get(PATH, params=ODD | query, headers={"Accept": kind}) as response:
        assert response.status == 200
        assert response.content_type == kind
        assert response.headers["Vary"] == "Accept"
        return await response.read(), CIMultiDict(response.headers)


def from_csv(body: bytes) -> tuple[list[str], list[list[Any]]]:
    """The header, and the rows as JSON has them."""
    header, *rows = csv.reader(io.StringIO(body.decode()))
    words: dict[str, Any] = {"": None, "true": True, "false": False} | {one: one for one in NUMBERS}
    return header, [
        [int(row[0]), *(words[cell] if cell in words else float(cell) for cell in row[1:])]
        for row in rows
    ]


def from_arrow(body: bytes) -> tuple[list[str], list[list[Any]]]:
    """The same of an Arrow stream."""
    with pa.ipc.open_stream(body) as reader:
        table = reader.read_all()
    assert table.schema.field("timestamp_ms").type == pa.timestamp("ms", tz="UTC")
    assert {table.schema.field(name).type for name in COLUMNS[1:]} == {pa.float64()}
    times = table.column("timestamp_ms").cast(pa.int64()).to_pylist()
    others = [table.column(name).to_pylist() for name in table.column_names[1:]]
    return table.column_names, [[t, *map(worded, row)] for t, *row in zip(times, *others, strict=True)]


@pytest.mark.parametrize("query", [{}, {"limit": 2}, {"since": START + 20 * M}, {"timeframe": "2m"}])
async def test_csv_and_arrow_hold_the_very_values_of_json(api: Api, query: dict[str, Any]) -> None:
    bars = orjson.loads((await fetched(api, JSON, **query))[0])["bars"]
    assert from_csv((await fetched(api, CSV, **query))[0]) == (COLUMNS, bars)
    assert from_arrow((await fetched(api, ARROW, **query))[0]) == (COLUMNS, bars)


@pytest.mark.parametrize("how", ["null", "prev"])
async def test_rows_that_were_filled_in_say_so_in_every_format(api: Api, how: str) -> None:
    answer = orjson.loads((await fetched(api, JSON, fill=how))[0])
    assert answer["filled"]
    marked = [[*bar, bar[0] in answer["filled"]] for bar in answer["bars"]]
    assert from_csv((await fetched(api, CSV, fill=how))[0]) == ([*COLUMNS, "filled"], marked)
    assert from_arrow((await fetched(api, ARROW, fill=how))[0]) == ([*COLUMNS, "filled"], marked)


@pytest.mark.parametrize("kind", [CSV, ARROW])
async def test_what_a_table_has_no_place_for_is_in_the_headers(api: Api, kind: str) -> None:
    read = from_csv if kind == CSV else from_arrow
    whole = read((await fetched(api, kind))[0])[1]
    rows: list[list[Any]] = []
    token: dict[str, str] = {}
    while True:
        body, headers = await fetched(api, kind, since=START, limit=2, **token)
        assert headers["Marketd-Complete"] == "true"
        rows += read(body)[1]
        if "Marketd-Next-Page-Token" not in headers:
            break
        token = {"page_token": headers["Marketd-Next-Page-Token"]}
    assert rows == whole


PREFERENCES = [
    ("", JSON),
    ("*/*", JSON),
    ("application/*", JSON),
    ("text/*", CSV),
    ("TEXT/CSV", CSV),
    ("text/csv; header=present; q=0.3", CSV),
    (f"{CSV}, {JSON}", CSV),
    (f"{JSON}, {CSV}", JSON),
    (f"{ARROW};q=0.9, {CSV};q=0.8", ARROW),
    (f"{JSON};q=0.1, {CSV};q=0.2, {ARROW};q=0.3", ARROW),
    (f"{JSON};q=0, */*", CSV),
    (f"*/*;q=0.1, {CSV};q=0", JSON),
    (f"text/*;q=0, {CSV}", CSV),
    ("text/html, application/xhtml+xml, application/xml;q=0.9, image/avif, */*;q=0.8", JSON),
    (f"{JSON};q=nan, {CSV};q=0.1", CSV),
    (f"{JSON};q=-1, {CSV};q=2, {ARROW};q=1.000", ARROW),
]


async def test_the_format_is_the_one_that_the_client_likes_best(api: Api) -> None:
    for accept, kind in PREFERENCES:
        async with api.session.get(PATH, params=ODD, headers={"Accept": accept}) as response:
            assert response.status == 200
            assert response.content_type == kind, accept


async def test_accept_headers_on_several_lines_count_as_one(api: Api) -> None:
    headers = CIMultiDict([("Accept", "text/html"), ("Accept", f"{CSV};q=0.5")])
    async with api.session.get(PATH, params=ODD, headers=headers) as response:
        assert response.content_type == CSV


async def test_a_format_that_is_not_served_is_a_406(api: Api) -> None:
    for accept in ("text/html", "csv", "*", ";", ",,", "*/*;q=0", f"{JSON};q=0", f"{CSV};q=x", "é"):
        problem = await api.refused(406, PATH, ODD, headers={"Accept": accept})
        assert problem["code"] == "not_acceptable"


async def test_what_nobody_can_read_is_not_fetched_first(api: Api) -> None:
    window = {"since": START, "before": START + 5 * M}
    await api.refused(406, PATH, ODD | window, headers={"Accept": "text/html"})
    gaps = await api.get("/api/v1/gaps", **ODD, **window)
    assert gaps["gaps"] == [{"start": START, "end": START + 5 * M, "reason": "pending"}]


values = st.none() | st.floats() | st.integers(-(2**63), 2**63 - 1) | st.booleans()
texts = st.text(st.characters(codec="utf-8"))
documents = st.recursive(
    values | texts | st.just("null"),
    lambda inner: st.lists(inner) | st.dictionaries(texts, inner) | st.lists(inner).map(tuple),
)


def spelt(value: Any) -> Any:
    """What JSON makes of a value."""
    if isinstance(value, dict):
        return {key: spelt(item) for key, item in value.items()}
    return list(map(spelt, value)) if isinstance(value, list | tuple) else worded(value)


@given(documents)
def test_json_keeps_none_nan_and_the_infinities_apart_wherever_they_are(document: Any) -> None:
    assert orjson.loads(to_json(document)) == spelt(document)


@given(documents)
def test_messagepack_says_what_json_says(document: Any) -> None:
    assert spelt(ormsgpack.unpackb(to_msgpack(document))) == orjson.loads(to_json(document))
