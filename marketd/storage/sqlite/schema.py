"""The SQLite schema as its history: migrations run forward only, each once, in order."""

from __future__ import annotations

import sqlite3
from typing import Any

from marketd.domain import packing
from marketd.domain.bar import Bar, open_time
from marketd.domain.errors import StorageFailed
from marketd.domain.timeframe import Timeframe
from marketd.storage.sqlite.bars import block_ms
from marketd.storage.sqlite.values import decoded

# There are no foreign keys: a series is found or made in the transaction that names it.
MIGRATIONS = (
    # A bar was one row; NaN in it the text 'NaN', and `has_nan` said that there may be one.
    """
    CREATE TABLE series (
        id INTEGER PRIMARY KEY,
        market TEXT NOT NULL,
        provider TEXT NOT NULL,
        symbol TEXT NOT NULL,
        timeframe TEXT NOT NULL,
        variant TEXT NOT NULL,
        has_nan INTEGER NOT NULL DEFAULT 0,
        UNIQUE (market, provider, symbol, timeframe, variant)
    );
    CREATE TABLE bar (
        series INTEGER NOT NULL,
        t INTEGER NOT NULL,
        open REAL,
        high REAL,
        low REAL,
        close REAL,
        volume REAL,
        rev INTEGER NOT NULL DEFAULT 0,
        revised_at INTEGER,
        PRIMARY KEY (series, t)
    ) WITHOUT ROWID;
    CREATE TABLE coverage (
        series INTEGER NOT NULL,
        range_start INTEGER NOT NULL,
        range_end INTEGER NOT NULL,
        PRIMARY KEY (series, range_start)
    ) WITHOUT ROWID;
    """,
    # What was covered before there were reasons was an answer. A trade has its place among those of its
    # millisecond. `rollup` holds coarser bars computed ahead, which are right only in the ranges of
    # `rolled`. `probe` is empty but while it is tried whether the disk takes anything.
    """
    ALTER TABLE coverage ADD COLUMN reason TEXT NOT NULL DEFAULT 'data';
    CREATE TABLE instrument (
        id INTEGER PRIMARY KEY,
        market TEXT NOT NULL,
        provider TEXT NOT NULL,
        symbol TEXT NOT NULL,
        UNIQUE (market, provider, symbol)
    );
    CREATE TABLE tick (
        instrument INTEGER NOT NULL,
        t INTEGER NOT NULL,
        place INTEGER NOT NULL,
        price REAL NOT NULL,
        size REAL NOT NULL,
        side TEXT NOT NULL,
        id TEXT NOT NULL,
        PRIMARY KEY (instrument, t, place)
    ) WITHOUT ROWID;
    CREATE TABLE job (
        id TEXT PRIMARY KEY,
        kind TEXT NOT NULL,
        state TEXT NOT NULL,
        body TEXT NOT NULL,
        created_ms INTEGER NOT NULL,
        updated_ms INTEGER NOT NULL
    ) WITHOUT ROWID;
    CREATE INDEX job_by_kind ON job (kind, created_ms, id);
    CREATE TABLE rollup (
        series INTEGER NOT NULL,
        timeframe TEXT NOT NULL,
        t INTEGER NOT NULL,
        open REAL,
        high REAL,
        low REAL,
        close REAL,
        volume REAL,
        PRIMARY KEY (series, timeframe, t)
    ) WITHOUT ROWID;
    CREATE TABLE rolled (
        series INTEGER NOT NULL,
        timeframe TEXT NOT NULL,
        range_start INTEGER NOT NULL,
        range_end INTEGER NOT NULL,
        PRIMARY KEY (series, timeframe, range_start)
    ) WITHOUT ROWID;
    CREATE TABLE probe (filler BLOB);
    """,
    # What is known of an instrument's trades. Those stored before there was this prove nothing.
    """
    CREATE TABLE tick_coverage (
        instrument INTEGER NOT NULL,
        range_start INTEGER NOT NULL,
        range_end INTEGER NOT NULL,
        reason TEXT NOT NULL,
        PRIMARY KEY (instrument, range_start)
    ) WITHOUT ROWID;
    """,
    # Bars move into blocks, which are read several times as fast as rows and take less room.
    """
    CREATE TABLE block (
        series INTEGER NOT NULL,
        start INTEGER NOT NULL,
        bars BLOB NOT NULL CHECK (length(bars) > 0 AND length(bars) % 48 = 0),
        PRIMARY KEY (series, start)
    ) WITHOUT ROWID;
    CREATE TABLE revision (
        series INTEGER NOT NULL,
        t INTEGER NOT NULL,
        rev INTEGER NOT NULL,
        revised_at INTEGER NOT NULL,
        PRIMARY KEY (series, t)
    ) WITHOUT ROWID;
    WITH RECURSIVE filled (series, width, start) AS (
        SELECT id, block_ms(timeframe), (
            SELECT min(t) - min(t) % block_ms(timeframe) FROM bar WHERE bar.series = series.id
        ) FROM series
        UNION ALL
        SELECT series, width, (
            SELECT min(t) - min(t) % width FROM bar
            WHERE bar.series = filled.series AND t >= start + width
        ) FROM filled WHERE start NOT NULL)
    INSERT INTO block (series, start, bars)
        SELECT series, start, (
            SELECT packed(t, open, high, low, close, volume) FROM bar
            WHERE bar.series = filled.series AND t >= start AND t < start + width
        ) FROM filled WHERE start NOT NULL;
    INSERT INTO revision (series, t, rev, revised_at)
        SELECT series, t, rev, revised_at FROM bar WHERE rev > 0;
    DROP TABLE bar;
    ALTER TABLE series DROP COLUMN has_nan;
    """,
    # When a job is to be worked on, and by whom: those that had not ended are to be at once.
    """
    ALTER TABLE job ADD COLUMN due_ms INTEGER;
    ALTER TABLE job ADD COLUMN claim TEXT NOT NULL DEFAULT '';
    ALTER TABLE job ADD COLUMN claimed_until_ms INTEGER NOT NULL DEFAULT 0;
    UPDATE job SET due_ms = created_ms WHERE state IN ('pending', 'running');
    CREATE INDEX job_by_due ON job (kind, due_ms, created_ms, id);
    """,
    # Changes are numbered, series by series; of those from before there is no number.
    """
    ALTER TABLE revision ADD COLUMN number INTEGER NOT NULL DEFAULT 0;
    CREATE INDEX revision_by_number ON revision (series, number);
    """,
)


class _Packed:
    """`packed(t, open, high, low, close, volume)` in SQL: the bars of a group as one block."""

    def __init__(self) -> None:
        self._bars: list[Bar] = []

    def step(self, *row: Any) -> None:
        self._bars.append(decoded(row))

    def finalize(self) -> bytes:
        return packing.pack(sorted(self._bars, key=open_time))


def migrate(connection: sqlite3.Connection) -> None:
    """Brings the schema of an owned, writable database up to date, each step in its transaction."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > len(MIGRATIONS):
        raise StorageFailed(
            f"The database has schema {version}, made by a newer marketd; "
            f"this one knows schemas up to {len(MIGRATIONS)}. "
            "Upgrade marketd, or choose another database with [storage] url."
        )
    connection.create_function("block_ms", 1, lambda name: block_ms(Timeframe.parse(name)))
    connection.create_aggregate("packed", 6, _Packed)  # type: ignore[arg-type]
    for number, script in enumerate(MIGRATIONS[version:], start=version + 1):
        connection.executescript(f"BEGIN IMMEDIATE; {script} PRAGMA user_version = {number}; COMMIT;")
