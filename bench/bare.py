"""A table of bars as one would write it: what the store is measured against."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence
from pathlib import Path

_TABLE = """
    CREATE TABLE IF NOT EXISTS bar (
        series INTEGER NOT NULL, t INTEGER NOT NULL,
        open REAL, high REAL, low REAL, close REAL, volume REAL,
        PRIMARY KEY (series, t)
    ) WITHOUT ROWID
"""
_UPSERT = """
    INSERT INTO bar (series, t, open, high, low, close, volume) VALUES (1, ?, ?, ?, ?, ?, ?)
    ON CONFLICT (series, t) DO UPDATE SET open = excluded.open, high = excluded.high,
        low = excluded.low, close = excluded.close, volume = excluded.volume
"""


def connected(path: Path) -> sqlite3.Connection:
    """A connection to a file with that table, as durable as the store: a WAL, `synchronous=FULL`."""
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute(_TABLE)
    return connection


def upsert(connection: sqlite3.Connection, bars: Iterable[Sequence[float | None]]) -> None:
    """One durable transaction."""
    connection.execute("BEGIN IMMEDIATE")
    connection.executemany(_UPSERT, bars)
    connection.execute("COMMIT")
