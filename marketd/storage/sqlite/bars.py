"""Bars, read and stored with what they prove: functions over one connection, each run whole.

A row of `block` holds the bars of a series that open in one stretch of time, packed: reading and
storing a page takes a few rows, and a new bar rewrites only the stretch that it lies in.
"""

from __future__ import annotations

import sqlite3
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from marketd.domain import packing
from marketd.domain.bar import Bar, open_time, same_bar
from marketd.domain.coverage import Covered
from marketd.domain.instrument import Series
from marketd.domain.timeframe import Timeframe
from marketd.domain.timerange import TimeRange
from marketd.storage.records import Revised, Revision, Stored, cut_reach
from marketd.storage.sqlite import coverage, rolled
from marketd.storage.sqlite.names import SeriesIds

# Reading a page of 1,000 takes some five rows then, and a new bar writes about 6 KB.
_BARS_IN_BLOCK = 256

_READ_BLOCK = "SELECT bars FROM block WHERE series = ? AND start = ?"
_FIRST_BLOCKS = "SELECT bars FROM block WHERE series = ? AND start >= ? AND start < ? ORDER BY start"
_LAST_BLOCKS = f"{_FIRST_BLOCKS} DESC"
_WRITE_BLOCK = """
    INSERT INTO block (series, start, bars) VALUES (?, ?, ?)
    ON CONFLICT DO UPDATE SET bars = excluded.bars
"""
_FIRST_BLOCK = "SELECT bars FROM block WHERE series = ? ORDER BY start LIMIT 1"
_LAST_BLOCK = "SELECT bars FROM block WHERE series = ? ORDER BY start DESC LIMIT 1"
# A bar that is new has `rev` 0.
_REVISE = """
    INSERT INTO revision (series, t, rev, revised_at, number) VALUES (?, ?, ?, ?, ?)
    ON CONFLICT DO UPDATE
    SET rev = rev + 1, revised_at = excluded.revised_at, number = excluded.number
    RETURNING rev
"""
_NUMBER = "SELECT coalesce(max(number), 0) FROM revision WHERE series = ?"
_REVISED = """
    SELECT t, rev FROM revision WHERE series = ? AND number > ? ORDER BY number DESC, t DESC LIMIT ?
"""


class PackedBars(NamedTuple):
    """StoredBars, still packed."""

    packed: bytes
    coverage: list[Covered]


def block_ms(timeframe: Timeframe) -> int:
    """How long a stretch of time a block holds; each begins at a multiple of that."""
    return _BARS_IN_BLOCK * timeframe.nominal_ms


def read(
    connection: sqlite3.Connection,
    ids: SeriesIds,
    series: Series,
    span: TimeRange,
    limit: int,
    newest: bool,
) -> PackedBars:
    """See Storage.read."""
    series_id = ids.find(connection, series)
    if series_id is None or span.is_empty:
        return PackedBars(b"", [])
    packed = select(connection, series_id, series.timeframe, span, limit, newest) if limit else b""
    spoken = span
    if packed and len(packed) >= limit * packing.SIZE:
        ends = packing.first_time(packed), packing.last_time(packed)
        spoken = cut_reach(*ends, series.timeframe, span, newest=newest).clip(span)
    known = coverage.read(connection, series_id, spoken)
    return PackedBars(packed, [piece.clip(spoken) for piece in known])


def select(
    connection: sqlite3.Connection,
    series_id: int,
    timeframe: Timeframe,
    span: TimeRange,
    limit: int,
    newest: bool,
) -> bytes:
    """The first or last bars of a series in `span`, packed."""
    most = limit * packing.SIZE
    parts: list[bytes] = []
    found = 0
    statement = _LAST_BLOCKS if newest else _FIRST_BLOCKS
    first_ms = span.start_ms - span.start_ms % block_ms(timeframe)
    for (block,) in connection.execute(statement, (series_id, first_ms, span.end_ms)):
        part = packing.cut(block, span)
        parts.append(part)
        found += len(part)
        if found >= most:
            break
    if newest:
        parts.reverse()
    packed = b"".join(parts)
    return packed[-most:] if newest else packed[:most]


def stored_span(connection: sqlite3.Connection, series_id: int) -> TimeRange | None:
    """From the first bar of a series to the open time of its last; None without any."""
    first = connection.execute(_FIRST_BLOCK, (series_id,)).fetchone()
    if first is None:
        return None
    (last,) = connection.execute(_LAST_BLOCK, (series_id,)).fetchone()
    return TimeRange(packing.first_time(first[0]), packing.last_time(last) + 1)


def store(
    connection: sqlite3.Connection,
    ids: SeriesIds,
    series: Series,
    bars: Sequence[Bar],
    covered: Sequence[Covered],
    at_ms: int,
) -> Stored:
    """See Storage.store; runs inside a transaction of the caller's."""
    series_id = ids.ensure(connection, series)
    inserted: list[Bar] = []
    changed: list[Bar] = []
    for start_ms, new in _by_block(bars, block_ms(series.timeframe)):
        row = connection.execute(_READ_BLOCK, (series_id, start_ms)).fetchone()
        merged = _merged(row[0], new) if row else _Merged(packing.pack(new), new, [])
        if merged.inserted or merged.changed:
            connection.execute(_WRITE_BLOCK, (series_id, start_ms, merged.block))
            inserted += merged.inserted
            changed += merged.changed
    late = _late(connection, series_id, inserted)
    revised = _number(connection, series_id, changed, late, at_ms)
    touched = [*inserted[:1], *inserted[-1:], *changed[:1], *changed[-1:]]
    if touched:
        span = TimeRange(min(touched, key=open_time)[0], max(touched, key=open_time)[0] + 1)
        rolled.take_back(connection, series_id, span)
    coverage.lay_over(connection, series_id, covered)
    return Stored(len(inserted), revised, len(late))


def revised(
    connection: sqlite3.Connection, ids: SeriesIds, series: Series, after: int, limit: int
) -> Revised:
    """See Storage.revised."""
    series_id = ids.find(connection, series)
    if series_id is None:
        return Revised(0, [])
    (number,) = connection.execute(_NUMBER, (series_id,)).fetchone()
    revs = dict(connection.execute(_REVISED, (series_id, after, limit)).fetchall())
    width_ms = block_ms(series.timeframe)
    bars: list[Revision] = []
    for start_ms in sorted({t_ms - t_ms % width_ms for t_ms in revs}):
        (block,) = connection.execute(_READ_BLOCK, (series_id, start_ms)).fetchone()
        bars += [Revision(bar, revs[bar[0]]) for bar in packing.unpack(block) if bar[0] in revs]
    return Revised(number, bars)


def _number(
    connection: sqlite3.Connection,
    series_id: int,
    changed: Sequence[Bar],
    late: Sequence[Bar],
    at_ms: int,
) -> list[Revision]:
    """Keeps that these bars have changed, or are new where they were lacking; gives the former."""
    if not changed and not late:
        return []
    (latest,) = connection.execute(_NUMBER, (series_id,)).fetchone()
    for bar in late:
        connection.execute(_REVISE, (series_id, bar[0], 0, at_ms, latest + 1)).fetchone()
    revised: list[Revision] = []
    for bar in changed:
        row = (series_id, bar[0], 1, at_ms, latest + 1)
        revised.append(Revision(bar, connection.execute(_REVISE, row).fetchone()[0]))
    return revised


def _late(connection: sqlite3.Connection, series_id: int, inserted: Sequence[Bar]) -> list[Bar]:
    """Which of these new bars lie where something was known already."""
    if not inserted:
        return []
    known = coverage.read(connection, series_id, TimeRange(inserted[0][0], inserted[-1][0] + 1))
    late: list[Bar] = []
    for one in known:
        first = bisect_left(inserted, one.start_ms, key=open_time)
        late += inserted[first : bisect_left(inserted, one.end_ms, first, key=open_time)]
    return late


class _Merged(NamedTuple):
    """A block as it has become, with the bars that were not in it and those that were different."""

    block: bytes
    inserted: Sequence[Bar]
    changed: Sequence[Bar]


def _merged(block: bytes, new: Sequence[Bar]) -> _Merged:
    """`block` with `new` laid over it; bars at an end of it, where most come, are put there as bytes."""
    if packing.last_time(block) < new[0][0]:
        return _Merged(block + packing.pack(new), new, [])
    if new[-1][0] < packing.first_time(block):
        return _Merged(packing.pack(new) + block, new, [])
    bars = {bar[0]: bar for bar in packing.unpack(block)}
    inserted = [bar for bar in new if bar[0] not in bars]
    changed = [bar for bar in new if bar[0] in bars and not same_bar(bars[bar[0]], bar)]
    bars.update((bar[0], bar) for bar in (*inserted, *changed))
    return _Merged(packing.pack(sorted(bars.values(), key=open_time)), inserted, changed)


def _by_block(bars: Sequence[Bar], width_ms: int) -> Iterator[tuple[int, Sequence[Bar]]]:
    """The bars of each block, with where it begins."""
    place = 0
    while place < len(bars):
        start_ms = bars[place][0] - bars[place][0] % width_ms
        end = bisect_left(bars, start_ms + width_ms, place, key=open_time)
        yield start_ms, bars[place:end]
        place = end
