"""Files to bars: CSV, gzipped CSV and Parquet, a part at a time.

An empty value means that the source has none; `NaN`, `Infinity` and `-Infinity` keep their meaning.
"""

from __future__ import annotations

import csv
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from marketd.barfiles import csv_reader, parquet_reader
from marketd.barfiles.layout import BadFile, Layout
from marketd.barfiles.recording import Recording, faults
from marketd.barfiles.table import Table
from marketd.barfiles.times import Times
from marketd.domain.timeframe import Timeframe
from marketd.domain.timerange import MAX_MS, MIN_MS

SUFFIXES = (".csv", ".csv.gz", ".parquet")


class BadRow(NamedTuple):
    """A row that is no bar: `line 17` (of Parquet `row 17`, counted from 1), and why."""

    place: str
    reason: str


class Part(NamedTuple):
    """Some rows of a file: the good ones, ascending, and the others in the order of the file.

    `done` is how much of the file has been read so far, from 0 to 1.
    """

    recording: Recording
    bad: list[BadRow]
    done: float


def read_parts(
    path: Path, timeframe: Timeframe, layout: Layout, *, before_ms: int = MAX_MS
) -> Iterator[Part]:
    """The rows of a file as bars of `timeframe` that open before `before_ms`.

    Raises BadFile, perhaps after some parts, if it cannot be read.
    """
    try:
        if not path.is_file():  # nor a pipe or a device, on which reading may hang
            raise BadFile(f"There is no file {path.name}.")
        tables = parquet_reader.tables if path.suffix == ".parquet" else csv_reader.tables
        yield from _checked(tables(path, layout), timeframe, layout, before_ms)
    except (OSError, EOFError, UnicodeDecodeError, csv.Error, zlib.error) as error:
        reason = getattr(error, "strerror", None) or "it is damaged, or not what its name says"
        raise BadFile(f"{path.name} cannot be read: {reason}.") from error


def _checked(
    tables: Iterator[Table], timeframe: Timeframe, layout: Layout, before_ms: int
) -> Iterator[Part]:
    descends: bool | None = None if layout.may_descend else False
    after_ms: int | None = None
    for table in tables:
        recording = table.recording
        wrong = dict(table.wrong)
        if layout.labels_end:
            times = _starts(recording.t, timeframe)
            recording = Recording(times.t_ms, recording.values)
            wrong = times.wrong | wrong
        kept = np.ones(len(recording), np.bool_)
        kept[list(wrong)] = False
        if descends is None:
            descends = _descends(recording.select(kept))
        order = np.flatnonzero(kept)
        for fault in faults(
            recording.select(kept),
            timeframe,
            before_ms=before_ms,
            after_ms=after_ms,
            descends=bool(descends),
        ):
            row = int(order[fault.row])
            kept[row] = False
            wrong[row] = fault.reason
        good = recording.select(kept)
        if len(good):
            after_ms = int(good.t[-1])
        yield Part(
            good.select(slice(None, None, -1)) if descends else good,
            [BadRow(table.place(row), wrong[row]) for row in sorted(wrong)],
            table.done,
        )


def _descends(recording: Recording) -> bool | None:
    """Whether the newest comes first; None while there are too few rows to tell."""
    return bool(recording.t[1] < recording.t[0]) if len(recording) > 1 else None


def _starts(ends: np.ndarray, timeframe: Timeframe) -> Times:
    """The times of bars that are labelled with their ends."""
    t_ms = np.where((ends <= MIN_MS) | (ends > MAX_MS), 1, ends)
    off_grid = np.flatnonzero(timeframe.floor_array(t_ms) != t_ms).tolist()
    reason = f"its time, the end of a bar, is not on the grid of {timeframe}"
    outside = np.flatnonzero(t_ms != ends).tolist()
    wrong = dict.fromkeys(off_grid, reason)
    wrong |= dict.fromkeys(outside, "its time lies outside the years 1970 to 2099")
    return Times(timeframe.floor_array(t_ms - 1), wrong)
