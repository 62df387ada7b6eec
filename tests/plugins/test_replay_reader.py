"""Files to columns: what the replay provider reads from CSV and Parquet, and what it refuses."""

import gzip
import sys
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyarrow import parquet

from marketd.barfiles.recording import Recording, faults
from marketd.domain.bar import Bar, bar_fault, same_bar
from marketd.domain.errors import ProviderFailed
from marketd.domain.timeframe import Timeframe
from marketd.plugins.replay.reader import read

MINUTE = Timeframe.parse("1m")
HEADER = "timestamp_ms,open,high,low,close,volume"
T = 1_294_045_200_000
NAN, INFINITY = float("nan"), float("inf")


def rows(recording: Recording) -> list[Bar]:
    index = np.arange(len(recording))
    values = (column.take(index) for column in recording.values)
    return list(zip(recording.t.tolist(), *values, strict=True))


def text_of(value: float | None) -> str:
    return {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity", "None": ""}.get(
        str(value), repr(value)
    )


def csv_of(bars: Sequence[Bar]) -> str:
    return "\n".join([HEADER, *(",".join(map(text_of, bar)) for bar in bars), ""])


def refused(path: Path, timeframe: Timeframe = MINUTE) -> str:
    with pytest.raises(ProviderFailed) as failure:
        read(path, timeframe)
    assert not failure.value.transient
    assert str(path.parent) not in failure.value.message
    return failure.value.message


def refused_csv(folder: Path, *lines: str) -> str:
    path = folder / "SPY_1m.csv"
    path.write_text("\n".join([HEADER, *lines]))
    return refused(path)


@pytest.fixture
def bars() -> list[Bar]:
    return [
        (T, 1.5, 2.25, 1.0, 2.0, 100.0),
        (T + 60_000, 2.0, None, 2.0, 2.0, None),
        (T + 180_000, NAN, INFINITY, -INFINITY, NAN, 0.0),
    ]


def write(path: Path, bars: Sequence[Bar]) -> Path:
    if path.suffix == ".parquet":
        names = HEADER.split(",")
        columns = {
            name: list(column) for name, column in zip(names, zip(*bars, strict=True), strict=True)
        }
        parquet.write_table(pa.table({"extra": ["x"] * len(bars), **columns}), path)
    elif path.suffix == ".gz":
        path.write_bytes(gzip.compress(csv_of(bars).encode()))
    else:
        path.write_text(csv_of(bars))
    return path


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz", "a.parquet"])
def test_every_format_reads_the_same_bars_with_none_nan_and_infinities(
    tmp_path: Path, bars: list[Bar], name: str
) -> None:
    got = rows(read(write(tmp_path / name, bars), MINUTE))
    assert [same_bar(one, other) for one, other in zip(got, bars, strict=True)] == [True] * 3
    assert all(type(bar[0]) is int for bar in got)


def test_columns_are_found_by_name_in_any_order_and_others_ignored(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text(
        '\ufeff"note",volume,close,low,high,"open",timestamp_ms,ask\r\n'
        f'"näh",7,2,1,3,1.5,"{T}",\r\n\r\n,,2,1,3,1.5,{T + 60_000}\r\n\r\n',
        encoding="utf-8",
    )
    assert rows(read(path, MINUTE)) == [
        (T, 1.5, 3.0, 1.0, 2.0, 7.0),
        (T + 60_000, 1.5, 3.0, 1.0, 2.0, None),
    ]


def test_numbers_come_out_exactly_as_they_were_written(tmp_path: Path) -> None:
    values = [0.1, 1e-300, 123456789.123456789, 5e-324, 1.7976931348623157e308, 0.1 + 0.2]
    bars: list[Bar] = [(T + 60_000 * i, v, v, v, v, v) for i, v in enumerate(values)]
    assert rows(read(write(tmp_path / "a.csv", bars), MINUTE)) == bars


def test_a_chunk_with_a_hole_and_one_without_are_joined(tmp_path: Path) -> None:
    bars: list[Bar] = [(T + 60_000 * i, 1.0, 1.0, 1.0, 1.0, float(i)) for i in range(10_000)]
    bars[5_000] = (*bars[5_000][:5], None)
    assert rows(read(write(tmp_path / "a.csv.gz", bars), MINUTE)) == bars


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("x,1,1,1,1,1", "line 4: 'x' is not a time in epoch milliseconds."),
        ("-5,1,1,1,1,1", "line 4: its time lies outside the years 1970 to 2099."),
        (f"{T}.5,1,1,1,1,1", f"line 4: '{T}.5' is not a time in epoch milliseconds."),
        (",1,1,1,1,1", "line 4: '' is not a time in epoch milliseconds."),
        ("9" * 5000 + ",1,1,1,1,1", f"line 4: '{'9' * 30}' is not a time in epoch milliseconds."),
        ("4102444800000,1,1,1,1,1", "line 4: its time lies outside the years 1970 to 2099."),
        (f"{T + 60_000},1,1,one,1,1", "line 4: 'one' is not a number."),
        (f"{T + 60_000},1,1,1_0,1,1", "line 4: '1_0' is not a number."),
        (f"{T + 60_000},1,1,1,1", "line 4: it has fewer columns than the header."),
        (f"{T + 30_000},1,1,1,1,1", "line 4: its time is not on the grid of 1m."),
        (f"{T},1,1,1,1,1", "line 4: its time is that of the row above."),
        (f"{T - 60_000},1,1,1,1,1", "line 4: its time lies before that of the row above."),
        (f"{T + 60_000},1,1,2,1,1", "line 4: its open and close do not lie between its low and high."),
        (f"{T + 60_000},1,1,1,2,1", "line 4: its open and close do not lie between its low and high."),
        (f"{T + 60_000},1,1,1,1,-1", "line 4: its volume is negative."),
    ],
)
def test_a_line_that_is_no_bar_is_named(tmp_path: Path, line: str, reason: str) -> None:
    after = f"{T + 120_000},1,1,1,1,1"
    assert refused_csv(tmp_path, f"{T},1,1,1,1,1", "", line, after) == f"SPY_1m.csv, {reason}"


def test_the_line_is_right_far_into_a_gzipped_file(tmp_path: Path) -> None:
    bars: list[Bar] = [(T + 60_000 * i, 1.0, 1.0, 1.0, 1.0, 1.0) for i in range(9_000)]
    bars[8_500] = (T, 1.0, 1.0, 1.0, 1.0, 1.0)
    message = refused(write(tmp_path / "a.csv.gz", bars))
    assert message == "a.csv.gz, line 8502: its time lies before that of the row above."


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "has no column timestamp_ms."),
        (b"time,open,high,low,close,volume\n", "has no column timestamp_ms."),
        (b"timestamp_ms;open;high;low;close;volume\n", "has no column timestamp_ms."),
        (b"timestamp_ms,open,high,low,close\n", "has no column volume."),
        (HEADER.encode() + b",open\n", "has more than one column open."),
        (HEADER.encode() + b"\n\n", "holds no bar."),
        (HEADER.encode() + b"\n\xff\xfe", "cannot be read: it is damaged, or not what its name says."),
    ],
)
def test_a_csv_file_that_is_no_series_is_refused(tmp_path: Path, content: bytes, reason: str) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(content)
    assert refused(path) == f"a.csv {reason}"


@pytest.mark.parametrize("name", ["a.csv.gz", "a.parquet"])
def test_a_damaged_file_is_refused(tmp_path: Path, bars: list[Bar], name: str) -> None:
    whole = write(tmp_path / name, bars).read_bytes()
    for damaged in (whole[: len(whole) // 2], whole[:-9] + whole[-8:], b"", b"no such format"):
        (tmp_path / name).write_bytes(damaged)
        assert refused(tmp_path / name).startswith(name)


@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz", "a.parquet"])
def test_a_missing_file_and_a_folder_are_no_files(tmp_path: Path, name: str) -> None:
    assert refused(tmp_path / name) == f"There is no file {name}."
    (tmp_path / name).mkdir()
    assert refused(tmp_path / name) == f"There is no file {name}."


def parquet_file(folder: Path, **columns: Any) -> Path:
    path = folder / "a.parquet"
    whole = {"timestamp_ms": [T, T + 60_000], **{name: [1.0, 1.0] for name in HEADER.split(",")[1:]}}
    parquet.write_table(pa.table({**whole, **columns}), path)
    return path


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        (
            {"timestamp_ms": [1.0, 2.0]},
            "The column timestamp_ms of a.parquet does not hold whole numbers.",
        ),
        (
            {"timestamp_ms": pa.array([T, T + 60_000], pa.timestamp("ms"))},
            "The column timestamp_ms of a.parquet does not hold whole numbers.",
        ),
        ({"open": ["1", "2"]}, "The column open of a.parquet does not hold numbers."),
        ({"timestamp_ms": [T, None]}, "a.parquet, row 2: it has no time."),
        ({"timestamp_ms": [T, T]}, "a.parquet, row 2: its time is that of the row above."),
        ({"volume": [1, -1]}, "a.parquet, row 2: its volume is negative."),
    ],
)
def test_a_parquet_file_that_is_no_series_is_refused(
    tmp_path: Path, columns: dict[str, Any], reason: str
) -> None:
    assert refused(parquet_file(tmp_path, **columns)) == reason


def test_a_parquet_file_without_a_column_or_without_rows_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    parquet.write_table(pa.table({"timestamp_ms": [T]}), path)
    assert refused(path) == "a.parquet has no column open."
    names = HEADER.split(",")
    empty = pa.table([pa.array([], pa.int64()), *[pa.array([], pa.float64())] * 5], names=names)
    parquet.write_table(empty, path)
    assert refused(path) == "a.parquet holds no bar."


def test_parquet_takes_whole_numbers_decimals_and_a_column_of_nulls(tmp_path: Path) -> None:
    decimals = pa.array([Decimal("1.000")] * 2)
    path = parquet_file(tmp_path, open=[1, 1], close=decimals, volume=pa.nulls(2))
    assert rows(read(path, MINUTE)) == [(t, 1.0, 1.0, 1.0, 1.0, None) for t in (T, T + 60_000)]


def test_parquet_without_pyarrow_names_the_extra(
    tmp_path: Path, bars: list[Bar], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write(tmp_path / "a.parquet", bars)
    monkeypatch.setitem(sys.modules, "pyarrow", None)  # what an import of a missing package finds
    assert refused(path) == "a.parquet needs pyarrow: install marketd with its extra arrow."


a_value = st.none() | st.floats(-2, 2) | st.sampled_from([NAN, INFINITY, -INFINITY])
a_bar = st.tuples(st.sampled_from([T, T + 1, -60_000]), a_value, a_value, a_value, a_value, a_value)


@given(a_bar)
def test_one_row_is_refused_exactly_when_the_domain_refuses_the_bar(bar: Bar) -> None:
    refused = bar_fault(bar, MINUTE) is not None
    assert len(faults(Recording.of([bar]), MINUTE)) == refused
