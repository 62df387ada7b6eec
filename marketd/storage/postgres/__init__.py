"""PostgreSQL as the store, and with the extension TimescaleDB all that it can do."""

from marketd.storage.postgres.store import PostgresStorage

__all__ = ["PostgresStorage"]
