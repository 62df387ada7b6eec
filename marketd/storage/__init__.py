"""Where bars are kept: one contract, and a backend for each kind of database."""

from marketd.storage.base import Change, Job, Storage, Stored, StoredBars, StoredTicks

__all__ = ["Change", "Job", "Storage", "Stored", "StoredBars", "StoredTicks"]
