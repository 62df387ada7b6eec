"""Trying whether the disk takes anything: something is written that needs room, then deleted.

What it took stays in the file, free for the next write.
"""

from __future__ import annotations

import sqlite3

_SIZE = 64 << 10

_FILL_PROBE = "INSERT INTO probe (filler) VALUES (zeroblob(?))"
_EMPTY_PROBE = "DELETE FROM probe"


def fill(connection: sqlite3.Connection) -> None:
    """Writes it; runs inside a transaction of the caller's."""
    connection.execute(_FILL_PROBE, (_SIZE,))


def empty(connection: sqlite3.Connection) -> None:
    """Deletes it; runs inside a transaction of the caller's."""
    connection.execute(_EMPTY_PROBE)
