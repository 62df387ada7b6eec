"""CSV and gzipped CSV to columns."""

from __future__ import annotations

import csv
import gzip
import io
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import accumulate, islice
from pathlib import Path

import numpy as np

from marketd.barfiles.layout import Layout, Positions
from marketd.barfiles.recording import Column, Recording
from marketd.barfiles.table import PART_ROWS, Table
from marketd.barfiles.times import AUTO, from_texts, unit_of
from marketd.domain.bar import Value

# A line that is longer is read as several: a file without line ends does not fill the memory.
_LONGEST_LINE = 1 << 20


def tables(path: Path, layout: Layout) -> Iterator[Table]:
    """The rows of the file, a part at a time."""
    with path.open("rb") as raw:
        size = path.stat().st_size or 1
        binary = gzip.GzipFile(fileobj=raw) if path.suffix == ".gz" else raw
        with io.TextIOWrapper(binary, encoding="utf-8-sig") as text:
            rows = csv.reader(iter(partial(text.readline, _LONGEST_LINE), ""))
            header = next(filter(_is_filled, rows), [])
            positions = layout.locate(path.name, header)
            unit = layout.time.unit
            line = rows.line_num + 1
            while part := list(islice(rows, PART_ROWS)):
                lines = _lines(part, line, rows.line_num + 1 - line)
                line = rows.line_num + 1
                if min(map(len, part)) < 2 and not all(map(_is_filled, part)):
                    filled = [row for row in zip(part, lines, strict=True) if _is_filled(row[0])]
                    if not filled:
                        continue
                    part, lines = (list(column) for column in zip(*filled, strict=True))
                if unit == AUTO:
                    unit = unit_of(part[0][positions.t] if len(part[0]) > positions.t else "")
                yield _table(part, lines, positions, unit, layout, raw.tell() / size)


def _is_filled(row: Sequence[str]) -> bool:
    return len(row) > 1 or any(map(str.strip, row))


def _lines(rows: Sequence[Sequence[str]], first: int, count: int) -> Sequence[int]:
    """The number of the line on which each row begins."""
    if count == len(rows):
        return range(first, first + count)
    # A quoted cell may go on over several lines.
    lengths = (1 + sum(cell.count("\n") for cell in row) for row in rows[:-1])
    return list(accumulate(lengths, initial=first))


def _table(
    rows: Sequence[Sequence[str]],
    lines: Sequence[int],
    positions: Positions,
    unit: str,
    layout: Layout,
    done: float,
) -> Table:
    width = 1 + max(place for place in (positions.t, *positions.values) if place is not None)
    wrong: dict[int, str] = {}
    if min(map(len, rows)) < width:
        short = [row for row, cells in enumerate(rows) if len(cells) < width]
        wrong = dict.fromkeys(short, "it has fewer columns than the header")
        rows = [[*cells, *[""] * width] if len(cells) < width else cells for cells in rows]
    columns = list(zip(*rows, strict=False))
    times = from_texts(columns[positions.t], unit, layout.time.zone)
    values = []
    found = [times.wrong]
    for place in positions.values:
        column, faulty = _absent(len(rows)) if place is None else _numbers(columns[place])
        values.append(column)
        found.append(faulty)
    for faulty in reversed(found):
        wrong = faulty | wrong
    return Table(
        Recording(times.t_ms, tuple(values)), wrong, lambda row: f"line {lines[row]}", min(done, 1.0)
    )


def _absent(rows: int) -> tuple[Column, dict[int, str]]:
    return Column.of([None] * rows), {}


def _numbers(texts: Sequence[str]) -> tuple[Column, dict[int, str]]:
    joined = "".join(texts)
    if joined.isascii() and "_" not in joined:
        try:
            return Column(np.fromiter(map(float, texts), np.float64, len(texts))), {}
        except ValueError:
            pass  # a value is empty, or no number: each is looked at
    values: list[Value] = []
    wrong: dict[int, str] = {}
    for row, text in enumerate(texts):
        try:
            values.append(_value(text.strip()))
        except ValueError as error:
            values.append(None)
            wrong[row] = str(error)
    return Column.of(values), wrong


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
