"""Looking after a database file: whether it is sound, a copy of it, and a copy put in its place.

Everything here reads through a connection of its own that can neither write nor checkpoint, so that
the store's one connection goes on meanwhile; the process has to own the file.
"""

from __future__ import annotations

import asyncio
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TypeVar
from urllib.parse import quote

from marketd.domain.errors import Conflict, StorageFailed
from marketd.storage.sqlite.owner import FileOwnership

T = TypeVar("T")

# How much is copied, or computed, between two looks at whether to stop.
_STEP_PAGES = 1024
_STEP_INSTRUCTIONS = 100_000


async def apart(work: Callable[[threading.Event], T]) -> T:
    """What `work` gives, done in another thread; told to stop, and waited for, on cancellation."""
    stop = threading.Event()
    working = asyncio.ensure_future(asyncio.to_thread(work, stop))
    try:
        return await asyncio.shield(working)
    except asyncio.CancelledError:
        stop.set()
        await asyncio.wait([working])
        raise


@contextmanager
def reading(path: Path, stop: threading.Event, *, still: bool = False) -> Iterator[sqlite3.Connection]:
    """A connection that sees the file as it is at this instant, ended by `stop`.

    With `still` nobody has the file open, and it may lie where nothing can be written.
    """
    still = still and not _beside(path, "-wal").exists()
    uri = f"file:{quote(os.fspath(path.absolute()))}?mode=ro{'&immutable=1' if still else ''}"
    with closing(sqlite3.connect(uri, uri=True, isolation_level=None)) as connection:
        connection.set_progress_handler(stop.is_set, _STEP_INSTRUCTIONS)
        connection.execute("BEGIN")
        connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
        yield connection


def back_up(path: Path, target: Path, *, replace: bool, stop: threading.Event) -> None:
    """Copies the database as it is at one instant into the file `target`, that is there as a whole or
    not at all. Conflict where there is such a file already, unless it is to be replaced."""
    _refuse_target(path, target, replace=replace)
    copy = target.with_name(f".{target.name}.{os.getpid()}.part")
    try:
        try:
            _copy(path, copy, stop, still=False)
            _refuse_target(path, target, replace=replace)
            os.replace(copy, target)
            _flush(target.parent)
        finally:
            copy.unlink(missing_ok=True)
    except (sqlite3.Error, OSError) as error:
        raise StorageFailed(f"The backup {target} cannot be made: {_why(error)}.") from error


def restore(path: Path, backup: Path, stop: threading.Event) -> Path | None:
    """Puts a copy of `backup` in the place of the database, which nobody may own.

    Gives where the old database is from now on, if there was one. The backup is to be checked before.
    """
    path = path.resolve()
    copy = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with FileOwnership(path).held():
            try:
                _copy(backup, copy, stop, still=True)
                aside = _set_aside(path) if path.exists() else None
                # The log of the old database would be taken for one of the new.
                for ending in ("-wal", "-shm"):
                    _beside(path, ending).unlink(missing_ok=True)
                os.replace(copy, path)
                _flush(path.parent)
            finally:
                copy.unlink(missing_ok=True)
    except (sqlite3.Error, OSError) as error:
        raise StorageFailed(f"{path} cannot be restored: {_why(error)}.") from error
    return aside


def _refuse_target(path: Path, target: Path, *, replace: bool) -> None:
    if target.resolve() == path.resolve():
        raise Conflict(f"{target} is the database itself: name another file.")
    if target.exists() and not replace:
        raise Conflict(f"{target} is there already: name another file, or have it replaced by --force.")


def _copy(path: Path, copy: Path, stop: threading.Event, *, still: bool) -> None:
    """A new file `copy`, for its owner alone, with all that is in the database at `path`."""

    def look(status: int, remaining: int, total: int) -> None:
        if stop.is_set():
            raise InterruptedError("it was stopped")

    os.close(os.open(copy, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    with reading(path, stop, still=still) as source, closing(sqlite3.connect(copy)) as target:
        source.backup(target, pages=_STEP_PAGES, progress=look, sleep=0)
        # One file that is whole without another beside it.
        target.execute("PRAGMA journal_mode = DELETE")
    with copy.open("rb") as file:
        os.fsync(file.fileno())


def _set_aside(path: Path) -> Path:
    """A second name for the database and its log, under which it stays a database."""
    number = 1
    while (aside := path.with_name(f"{path.name}.before-restore-{number}")).exists():
        number += 1
    os.link(path, aside)
    with suppress(FileNotFoundError):
        os.link(_beside(path, "-wal"), _beside(aside, "-wal"))
    return aside


def _beside(path: Path, ending: str) -> Path:
    return path.with_name(path.name + ending)


def _flush(folder: Path) -> None:
    """Makes a change of names in `folder` durable."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _why(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)
