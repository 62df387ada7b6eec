"""Where the socket is, and how a path that is too long for a socket is reached all the same."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

# What Linux has room for in the address of a unix socket, without the zero at its end.
_LONGEST = 107


def socket_beside(database: Path) -> Path:
    """The socket of whoever owns the database file."""
    database = database.resolve()
    return database.with_name(database.name + ".sock")


@contextmanager
def reachable(path: Path) -> Iterator[str]:
    """An address of `path`, while inside. OSError if its folder cannot be opened."""
    if len(os.fsencode(path)) <= _LONGEST:
        yield str(path)
        return
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{folder}/{path.name}"
    finally:
        os.close(folder)
