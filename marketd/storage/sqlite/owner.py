"""One owner process for a database file: a lock beside it that ends when the process does."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from marketd.domain.errors import StorageLocked


class FileOwnership:
    """An exclusive lock on `<file>.lock`, with the owner's process id inside for people to read."""

    def __init__(self, database: Path) -> None:
        self._database = database
        self._fd: int | None = None

    def acquire(self) -> None:
        """Takes the lock, or raises StorageLocked that says who has it."""
        # Two names of one file are one database.
        database = self._database.resolve()
        path = database.with_name(database.name + ".lock")
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(fd, 0)
            os.pwrite(fd, str(os.getpid()).encode(), 0)
        except BlockingIOError:
            owner = os.pread(fd, 32, 0).decode("ascii", "replace").strip()
            os.close(fd)
            raise StorageLocked(
                f"{self._database} is in use by another marketd"
                f"{f' (process {owner})' if owner else ''}. Stop that one, or give this one a database "
                "of its own with [storage] url."
            ) from None
        except OSError:
            os.close(fd)
            raise
        self._fd = fd

    def release(self) -> None:
        """Gives the lock back; the file stays, since removing it would race with the next owner."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    @contextmanager
    def held(self) -> Iterator[None]:
        """Has the lock, while inside."""
        self.acquire()
        try:
            yield
        finally:
            self.release()
