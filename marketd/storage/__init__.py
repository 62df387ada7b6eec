"""Where bars are kept: one contract, and a backend for each kind of database."""

from marketd.storage.base import AddedTicks, Change, Job, Storage, Stored, StoredBars, StoredTicks

__all__ = ["AddedTicks", "Change", "Job", "Storage", "Stored", "StoredBars", "StoredTicks"]
