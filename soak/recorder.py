"""Every change that SQLite makes to the files of a folder, in order: recorded from inside of it.

SQLite reaches files through a table of functions, a VFS. Here the default one of the library that the
module `sqlite3` itself runs is wrapped, found by way of `ctypes`, so that what is recorded are the
writes of marketd's own store, with its statements and settings, in the library that it would use. The
files of shared memory are not among them: they are mapped, never flushed, and made anew by who opens
a database after a power cut.
"""

from __future__ import annotations

import _sqlite3
import ctypes
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from ctypes import CFUNCTYPE, POINTER, c_char_p, c_int, c_int64, c_void_p
from pathlib import Path
from typing import NamedTuple, TypeAlias

_OK = 0
_CREATE = 0x4
_JOURNAL_OR_WAL = 0x800 | 0x80000  # of these SQLite flushes the folder, too, once they are new


class Made(NamedTuple):
    """A file got this name, in place of any other that had it."""

    name: str


class Written(NamedTuple):
    name: str
    offset: int
    data: bytes


class Truncated(NamedTuple):
    name: str
    size: int


class Synced(NamedTuple):
    """What the file has holds out from here on."""

    name: str


class Deleted(NamedTuple):
    name: str


class FolderSynced(NamedTuple):
    """The names hold out from here on."""


Change: TypeAlias = Made | Written | Truncated | Synced | Deleted | FolderSynced

_OPEN = CFUNCTYPE(c_int, c_void_p, c_void_p, c_void_p, c_int, c_void_p)
_DELETE = CFUNCTYPE(c_int, c_void_p, c_char_p, c_int)
_CLOSE = CFUNCTYPE(c_int, c_void_p)
_WRITE = CFUNCTYPE(c_int, c_void_p, c_void_p, c_int, c_int64)
_TRUNCATE = CFUNCTYPE(c_int, c_void_p, c_int64)
_SYNC = CFUNCTYPE(c_int, c_void_p, c_int)


class _Methods(ctypes.Structure):
    """sqlite3_io_methods, what one file can do; the rest of it stays as it is."""

    _fields_ = (
        ("version", c_int),
        ("close", _CLOSE),
        ("read", c_void_p),
        ("write", _WRITE),
        ("truncate", _TRUNCATE),
        ("sync", _SYNC),
        ("rest", c_void_p * 13),
    )


class _File(ctypes.Structure):
    """sqlite3_file, at its beginning."""

    _fields_ = (("methods", POINTER(_Methods)),)


class _Vfs(ctypes.Structure):
    """sqlite3_vfs."""

    _fields_ = (
        ("version", c_int),
        ("file_size", c_int),
        ("longest_path", c_int),
        ("next", c_void_p),
        ("name", c_char_p),
        ("data", c_void_p),
        ("open", _OPEN),
        ("delete", _DELETE),
        ("rest", c_void_p * 14),
    )


def _library() -> ctypes.CDLL:
    """The library that the module `sqlite3` runs."""
    library = ctypes.CDLL(getattr(_sqlite3, "__file__", None))
    library.sqlite3_sourceid.restype = c_char_p
    connection = sqlite3.connect(":memory:")
    (running,) = connection.execute("SELECT sqlite_source_id()").fetchone()
    connection.close()
    assert library.sqlite3_sourceid().decode() == running, "this is another library than Python's own"
    library.sqlite3_vfs_find.restype = POINTER(_Vfs)
    library.sqlite3_vfs_find.argtypes = [c_char_p]
    library.sqlite3_vfs_register.argtypes = [c_void_p, c_int]
    library.sqlite3_vfs_unregister.argtypes = [c_void_p]
    return library


@contextmanager
def recording(folder: Path) -> Iterator[list[Change]]:
    """Fills a list with what happens to the files of `folder` in databases that are opened inside."""
    library = _library()
    real = library.sqlite3_vfs_find(None)
    recorder = _Recorder(real, os.fsencode(folder.resolve()) + b"/")
    library.sqlite3_vfs_register(ctypes.byref(recorder.vfs), 1)
    try:
        yield recorder.changes
        assert not recorder.opened, "a database is still open, and would be written through nothing"
    finally:
        library.sqlite3_vfs_register(real, 1)
        library.sqlite3_vfs_unregister(ctypes.byref(recorder.vfs))


class _Recorder:
    """The default VFS, with its changes of files passed on and written down."""

    def __init__(self, real: ctypes._Pointer[_Vfs], folder: bytes) -> None:
        self.changes: list[Change] = []
        self.opened: dict[int, str] = {}
        self.vfs = _Vfs.from_buffer_copy(real.contents)
        self.vfs.name = b"recorder"
        self.vfs.open = _OPEN(self._open)
        self.vfs.delete = _DELETE(self._delete)
        self._real = real
        self._folder = folder
        self._new: set[str] = set()
        self._wrapped: dict[int, tuple[_Methods, _Methods]] = {}
        self._of_file: dict[int, _Methods] = {}

    def _open(self, vfs: int, path: int | None, file: int, flags: int, out: int | None) -> int:
        # The pointer itself goes on: behind the path SQLite keeps more than the path.
        name = ctypes.string_at(path) if path else b""
        ours = name.startswith(self._folder)
        was_there = os.path.exists(name)
        done: int = self._real.contents.open(self._real_address, path, file, flags, out)
        if ours and done == _OK:
            short = os.fsdecode(name[len(self._folder) :])
            if not was_there and flags & _CREATE:
                self.changes.append(Made(short))
                if flags & _JOURNAL_OR_WAL:
                    self._new.add(short)
            self._wrap(file)
            self.opened[file] = short
        return done

    @property
    def _real_address(self) -> int:
        return ctypes.addressof(self._real.contents)

    def _wrap(self, file: int) -> None:
        """Puts our methods in the place of the file's own, of which there are few sets."""
        pointer = _File.from_address(file)
        address = ctypes.addressof(pointer.methods.contents)
        if address not in self._wrapped:
            real = pointer.methods.contents
            ours = _Methods.from_buffer_copy(real)
            ours.close = _CLOSE(self._close)
            ours.write = _WRITE(self._write)
            ours.truncate = _TRUNCATE(self._truncate)
            ours.sync = _SYNC(self._sync)
            self._wrapped[address] = (real, ours)
        self._of_file[file], ours = self._wrapped[address]
        pointer.methods = ctypes.pointer(ours)

    def _delete(self, vfs: int, path: bytes, sync_folder: int) -> int:
        done: int = self._real.contents.delete(self._real_address, path, sync_folder)
        if path.startswith(self._folder) and done == _OK:
            self.changes.append(Deleted(os.fsdecode(path[len(self._folder) :])))
            if sync_folder:
                self.changes.append(FolderSynced())
        return done

    def _close(self, file: int) -> int:
        del self.opened[file]
        done: int = self._of_file.pop(file).close(file)
        return done

    def _write(self, file: int, data: int, size: int, offset: int) -> int:
        done: int = self._of_file[file].write(file, data, size, offset)
        if done == _OK:
            self.changes.append(Written(self.opened[file], offset, ctypes.string_at(data, size)))
        return done

    def _truncate(self, file: int, size: int) -> int:
        done: int = self._of_file[file].truncate(file, size)
        if done == _OK:
            self.changes.append(Truncated(self.opened[file], size))
        return done

    def _sync(self, file: int, flags: int) -> int:
        done: int = self._of_file[file].sync(file, flags)
        name = self.opened[file]
        if done == _OK:
            self.changes.append(Synced(name))
            if name in self._new:
                self._new.remove(name)
                self.changes.append(FolderSynced())
        return done
