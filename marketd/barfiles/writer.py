"""Bars to files: CSV, gzipped CSV, Parquet and Arrow, as they come."""

from __future__ import annotations

import gzip
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, TypeAlias

from marketd.barfiles.csv_text import HEADING, csv_row
from marketd.barfiles.layout import COLUMNS
from marketd.domain.bar import Bar, Value
from marketd.domain.errors import Conflict, Unsupported

Write: TypeAlias = Callable[[Sequence[Bar]], None]

# So many bars make a row group of Parquet or a batch of Arrow.
_GROUP = 65_536


@contextmanager
def new_file(path: Path, *, replace: bool) -> Iterator[Write]:
    """Writes bars into the file `path`, whose ending is one of WRITERS; all of them, or no file.

    Raises Conflict where there is one already, unless it is to be replaced, and OSError.
    """
    if path.exists() and not replace:
        raise Conflict(f"{path} is there already: name another, or have it replaced by --force.")
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file, WRITERS[ending(path.name) or ".csv"](file) as write:
            yield write
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def ending(name: str) -> str | None:
    """The ending of a file's name that says how to write it, or None."""
    return next((known for known in WRITERS if name.endswith(known)), None)


@contextmanager
def csv_writer(file: BinaryIO) -> Iterator[Write]:
    """Lines with a heading."""
    file.write(f"{HEADING}\n".encode())
    yield lambda bars: _write_lines(file, bars)


def _write_lines(file: Any, bars: Sequence[Bar]) -> None:
    file.write("".join(f"{csv_row(bar)}\n" for bar in bars).encode())


@contextmanager
def _gzip_writer(file: BinaryIO) -> Iterator[Write]:
    # Without a time inside, the same bars make the same file.
    with gzip.GzipFile(fileobj=file, mode="wb", filename="", compresslevel=4, mtime=0) as packed:
        packed.write(f"{HEADING}\n".encode())
        yield lambda bars: _write_lines(packed, bars)


@contextmanager
def _parquet_writer(file: BinaryIO) -> Iterator[Write]:
    pa = _pyarrow()
    from pyarrow import parquet

    # Whole numbers, as in CSV: what reads the one reads the other.
    schema = _schema(pa, pa.int64())
    with parquet.ParquetWriter(file, schema) as writer:
        yield from _grouped(pa, schema, writer.write_batch)


@contextmanager
def _arrow_writer(file: BinaryIO) -> Iterator[Write]:
    pa = _pyarrow()
    # As the bars are over REST.
    schema = _schema(pa, pa.timestamp("ms", tz="UTC"))
    with pa.ipc.new_file(file, schema) as writer:
        yield from _grouped(pa, schema, writer.write_batch)


def _grouped(pa: Any, schema: Any, write_batch: Callable[[Any], None]) -> Iterator[Write]:
    waiting: list[Bar] = []

    def flush() -> None:
        columns: Sequence[Sequence[Value]] = list(zip(*waiting, strict=True)) or [()] * len(COLUMNS)
        arrays = [pa.array(column, of.type) for column, of in zip(columns, schema, strict=True)]
        write_batch(pa.record_batch(arrays, schema=schema))
        waiting.clear()

    def write(bars: Sequence[Bar]) -> None:
        waiting.extend(bars)
        if len(waiting) >= _GROUP:
            flush()

    yield write
    flush()


def _schema(pa: Any, time: Any) -> Any:
    return pa.schema(list(zip(COLUMNS, [time, *[pa.float64()] * 5], strict=True)))


def _pyarrow() -> Any:
    try:
        import pyarrow
    except ImportError:
        raise Unsupported(
            "Parquet and Arrow need pyarrow: install marketd with its extra arrow."
        ) from None
    return pyarrow


WRITERS = {
    ".csv": csv_writer,
    ".csv.gz": _gzip_writer,
    ".parquet": _parquet_writer,
    ".arrow": _arrow_writer,
}
