"""Where bars are kept: one contract, and a backend for each kind of database."""

from marketd.storage.base import Job, Storage, Stored, StoredBars, StoredTicks

__all__ = ["Job", "Storage", "Stored", "StoredBars", "StoredTicks"]
