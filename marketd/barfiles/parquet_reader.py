"""Parquet to columns."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from marketd.barfiles.layout import FIELDS, BadFile, Layout
from marketd.barfiles.recording import Column, Recording
from marketd.barfiles.table import PART_ROWS, Table
from marketd.barfiles.times import (
    AUTO,
    TEXT,
    Times,
    from_datetimes,
    from_numbers,
    from_texts,
    unit_of,
)

_BUFFER_BYTES = 1 << 20


def tables(path: Path, layout: Layout) -> Iterator[Table]:
    """The rows of the file, a part at a time."""
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError:
        raise BadFile(f"{path.name} needs pyarrow: install marketd with its extra arrow.") from None
    try:
        # Read as it is asked for: a whole row group may be larger than memory.
        with parquet.ParquetFile(path, buffer_size=_BUFFER_BYTES, pre_buffer=False) as file:
            names = file.schema_arrow.names
            positions = layout.locate(path.name, names)
            time = names[positions.t]
            wanted = [None if place is None else names[place] for place in positions.values]
            _check_kinds(path.name, file.schema_arrow, [time, *wanted], layout)
            unit = layout.time.unit
            first = 0
            for batch in file.iter_batches(
                PART_ROWS, columns=[time, *(name for name in wanted if name)]
            ):
                if not batch.num_rows:
                    continue
                t = batch.column(time)
                if unit == AUTO:
                    unit = unit_of(t[0].as_py())
                times = _times(t, unit, layout)
                values = tuple(_values(batch, name) for name in wanted)
                first += batch.num_rows
                done = first / file.metadata.num_rows
                place = partial(_place, first - batch.num_rows)
                yield Table(Recording(times.t_ms, values), times.wrong, place, done)
    except pa.ArrowException:
        raise BadFile(f"{path.name} cannot be read: it is damaged, or not what its name says.") from None


def _place(first: int, row: int) -> str:
    return f"row {first + row + 1}"


def _check_kinds(name: str, schema: Any, wanted: Sequence[str | None], layout: Layout) -> None:
    """Refuses columns that hold something else than times and numbers."""
    from pyarrow import types

    kinds: Sequence[Callable[[Any], bool]]
    timed: tuple[Sequence[Callable[[Any], bool]], str]
    numeric = (types.is_floating, types.is_integer, types.is_decimal, types.is_null)
    dated = (types.is_string, types.is_large_string, types.is_timestamp, types.is_date)
    epoch = (types.is_integer,)
    if layout.time.unit == AUTO:
        timed = ((*dated, *epoch), "times")
    elif layout.time.unit == TEXT:
        timed = (dated, "dates or times")
    else:
        timed = (epoch, "whole numbers")
    for field, column in zip(FIELDS, wanted, strict=True):
        kinds, words = timed if field == "t" else (numeric, "numbers")
        if column is not None and not any(kind(schema.field(column).type) for kind in kinds):
            raise BadFile(f"The column {column} of {name} does not hold {words}.")


def _times(t: Any, unit: str, layout: Layout) -> Times:
    import pyarrow as pa
    from pyarrow import types

    zone = layout.time.zone
    absent = np.flatnonzero(t.is_null().to_numpy(zero_copy_only=False)).tolist() if t.null_count else []
    if types.is_integer(t.type):
        times = from_numbers(t.cast(pa.int64(), safe=False).fill_null(0).to_numpy(), unit)
    elif types.is_timestamp(t.type) and t.type.tz:
        times = from_numbers(t.cast(pa.int64()).fill_null(0).to_numpy(), t.type.unit)
    elif types.is_timestamp(t.type) or types.is_date(t.type):
        moments = t.cast(pa.timestamp("us"), safe=False).fill_null(0)
        times = from_datetimes(moments.to_pylist(), zone)
    else:
        times = from_texts(t.fill_null("").to_pylist(), TEXT, zone)
    return Times(times.t_ms, times.wrong | dict.fromkeys(absent, "it has no time"))


def _values(batch: Any, name: str | None) -> Column:
    import pyarrow as pa

    if name is None:
        return Column.of([None] * batch.num_rows)
    column = batch.column(name)
    absent = column.is_null().to_numpy(zero_copy_only=False) if column.null_count else None
    numbers = column.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    return Column(numbers, absent)
