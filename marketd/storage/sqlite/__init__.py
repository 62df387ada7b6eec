"""The default store: one SQLite file, nothing to install."""

from marketd.storage.sqlite.store import SQLiteStorage

__all__ = ["SQLiteStorage"]
