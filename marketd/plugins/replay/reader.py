"""Files to columns: CSV, gzipped CSV and Parquet.

The columns `timestamp_ms, open, high, low, close, volume` are found by name and others are ignored.
`timestamp_ms` is the bar's open in epoch milliseconds UTC. An empty value means that the source has
none; `NaN`, `Infinity` and `-Infinity` keep their meaning.
"""

from __future__ import annotations

import csv
import gzip
import re
import zlib
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TextIO

import numpy as np

from marketd.domain.bar import Bar, Value
from marketd.domain.errors import ProviderFailed
from marketd.domain.timeframe import Timeframe
from marketd.plugins.replay.recording import BadRow, Column, Recording, check

_VALUES = ("open", "high", "low", "close", "volume")
_COLUMNS = ("timestamp_ms", *_VALUES)
_DAMAGED = "it is damaged, or not what its name says"
_DIGITS = re.compile(r"[0-9]{1,18}")
_ROW = np.dtype([("timestamp_ms", np.int64), *((name, np.float64) for name in _VALUES)])

# numpy holds the interpreter while it parses a chunk: about 5 ms for this many rows.
_CHUNK_ROWS = 4096


def refusal(sentence: str) -> ProviderFailed:
    """What `open` raises about the files: trying again does not mend them."""
    return ProviderFailed(sentence, transient=False)


def read(path: Path, timeframe: Timeframe) -> Recording:
    """The bars of one file, ascending, each a valid bar of `timeframe`; at least one.

    Raises ProviderFailed with the name of the file, and where one is at fault its line (in Parquet
    its row, counted from 1).
    """
    is_parquet = path.suffix == ".parquet"
    try:
        if not path.is_file():  # nor a pipe or a device, on which reading may hang
            raise refusal(f"There is no file {path.name} in the folder of the recordings.")
        recording = _read_parquet(path) if is_parquet else _read_csv(path)
        check(recording, timeframe)
    except BadRow as error:
        place = f"row {error.row + 1}" if is_parquet else f"line {_line_of(path, error.row)}"
        raise refusal(f"{path.name}, {place}: {error.reason}.") from None
    except (OSError, EOFError, UnicodeDecodeError, csv.Error, zlib.error) as error:
        reason = getattr(error, "strerror", None) or _DAMAGED
        raise refusal(f"{path.name} cannot be read: {reason}.") from error
    return recording


def _positions(path: Path, header: Sequence[str]) -> list[int]:
    """Where the columns are."""
    for name in _COLUMNS:
        count = header.count(name)
        if count != 1:
            problem = "more than one column" if count else "no column"
            raise refusal(f"{path.name} has {problem} {name}.")
    return [header.index(name) for name in _COLUMNS]


def _open(path: Path) -> TextIO:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8-sig")
    return path.open(encoding="utf-8-sig")


def _line_of(path: Path, row: int) -> int:
    with _open(path) as file:
        numbers = (number for number, line in enumerate(file, 1) if line.strip())
        return next(islice(numbers, row + 1, None))


def _read_csv(path: Path) -> Recording:
    with _open(path) as file:
        lines = filter(str.strip, file)
        header = next(csv.reader(islice(lines, 1)), [])
        parts = list(_parse(lines, _positions(path, header)))
    if not parts:
        raise refusal(f"{path.name} holds no bar.")
    return Recording.join(parts)


def _parse(lines: Iterator[str], positions: Sequence[int]) -> Iterator[Recording]:
    row = 0
    while chunk := list(islice(lines, _CHUNK_ROWS)):
        try:
            table = np.loadtxt(
                chunk, _ROW, delimiter=",", quotechar='"', comments=None, usecols=positions, ndmin=1
            )
        except ValueError:
            # numpy knows no empty values, nor which row is at fault: this chunk is read by hand.
            yield _parse_by_hand(chunk, positions, row)
        else:
            yield Recording(table["timestamp_ms"], tuple(Column(table[name]) for name in _VALUES))
        row += len(chunk)


def _parse_by_hand(lines: Sequence[str], positions: Sequence[int], first_row: int) -> Recording:
    bars: list[Bar] = []
    for row, cells in enumerate(csv.reader(lines), first_row):
        try:
            t, open_, high, low, close, volume = (cells[position].strip() for position in positions)
            bars.append(
                (_time(t), _value(open_), _value(high), _value(low), _value(close), _value(volume))
            )
        except IndexError:
            raise BadRow(row, "it has fewer columns than the header") from None
        except ValueError as error:
            raise BadRow(row, str(error)) from None
    return Recording.of(bars)


def _time(text: str) -> int:
    if _DIGITS.fullmatch(text) is None:
        raise ValueError(f"{text[:30]!r} is not a time in epoch milliseconds")
    return int(text)


def _value(text: str) -> Value:
    if not text:
        return None
    try:
        # float() would also take 1_000, and the digits of other alphabets.
        if text.isascii() and "_" not in text:
            return float(text)
    except ValueError:
        pass
    raise ValueError(f"{text[:30]!r} is not a number")


def _read_parquet(path: Path) -> Recording:
    try:
        import pyarrow as pa
        from pyarrow import parquet
    except ImportError:
        raise refusal(f"{path.name} needs pyarrow: install marketd with its extra arrow.") from None
    try:
        with parquet.ParquetFile(path) as file:
            _positions(path, file.schema_arrow.names)
            table = file.read(columns=list(_COLUMNS))
    except pa.ArrowException:
        raise refusal(f"{path.name} cannot be read: {_DAMAGED}.") from None
    kinds = pa.types
    t = table.column("timestamp_ms")
    if not kinds.is_integer(t.type):
        raise refusal(f"The column timestamp_ms of {path.name} does not hold whole numbers.")
    if t.null_count:
        raise BadRow(int(np.argmax(t.is_null().to_numpy())), "it has no time")
    if not len(t):
        raise refusal(f"{path.name} holds no bar.")
    values = []
    for name in _VALUES:
        column = table.column(name)
        numeric = (kinds.is_floating, kinds.is_integer, kinds.is_decimal, kinds.is_null)
        if not any(is_kind(column.type) for is_kind in numeric):
            raise refusal(f"The column {name} of {path.name} does not hold numbers.")
        absent = column.is_null().to_numpy() if column.null_count else None
        values.append(Column(column.cast(pa.float64(), safe=False).to_numpy(), absent))
    return Recording(t.cast(pa.int64(), safe=False).to_numpy(), tuple(values))
