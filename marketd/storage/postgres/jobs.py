"""Jobs: functions over one connection."""

from __future__ import annotations

from marketd.storage.base import Job
from marketd.storage.postgres.connection import Connection

_SAVE = """
    INSERT INTO job (id, kind, state, body, created_ms, updated_ms) VALUES ($1, $2, $3, $4, $5, $6)
    ON CONFLICT (id) DO UPDATE SET kind = excluded.kind, state = excluded.state, body = excluded.body,
        created_ms = excluded.created_ms, updated_ms = excluded.updated_ms
"""
_OF_KIND = """
    SELECT id, kind, state, body, created_ms, updated_ms FROM job
    WHERE kind = $1 ORDER BY created_ms, id COLLATE "C"
"""
_DELETE = "DELETE FROM job WHERE id = $1"


async def save(connection: Connection, job: Job) -> None:
    """See Storage.save_job."""
    await connection.execute(_SAVE, *job)


async def read(connection: Connection, kind: str) -> list[Job]:
    """See Storage.jobs."""
    return [Job(*row) for row in await connection.fetch(_OF_KIND, kind)]


async def delete(connection: Connection, job_id: str) -> None:
    """See Storage.delete_job."""
    await connection.execute(_DELETE, job_id)
