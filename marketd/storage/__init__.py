"""Where bars are kept: one contract, and a backend for each kind of database."""

from marketd.storage.base import Storage
from marketd.storage.records import AddedTicks, Change, Job, Stored, StoredBars, StoredTicks

__all__ = ["AddedTicks", "Change", "Job", "Storage", "Stored", "StoredBars", "StoredTicks"]
