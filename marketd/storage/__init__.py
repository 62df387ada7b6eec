"""Where bars are kept: one contract, and a backend for each kind of database."""

from marketd.storage.base import Storage, Stored, StoredBars

__all__ = ["Storage", "Stored", "StoredBars"]
