"""Jobs: functions over one connection, each run whole."""

from __future__ import annotations

import sqlite3

from marketd.storage.base import Job

_SAVE_JOB = """
    INSERT INTO job (id, kind, state, body, created_ms, updated_ms) VALUES (?, ?, ?, ?, ?, ?)
    ON CONFLICT (id) DO UPDATE SET kind = excluded.kind, state = excluded.state, body = excluded.body,
        created_ms = excluded.created_ms, updated_ms = excluded.updated_ms
"""
_READ_JOBS = """
    SELECT id, kind, state, body, created_ms, updated_ms FROM job WHERE kind = ?
    ORDER BY created_ms, id
"""
_DELETE_JOB = "DELETE FROM job WHERE id = ?"


def save(connection: sqlite3.Connection, job: Job) -> None:
    """See Storage.save_job; runs inside a transaction of the caller's."""
    connection.execute(_SAVE_JOB, job)


def read(connection: sqlite3.Connection, kind: str) -> list[Job]:
    """See Storage.jobs."""
    return [Job(*row) for row in connection.execute(_READ_JOBS, (kind,))]


def delete(connection: sqlite3.Connection, job_id: str) -> None:
    """See Storage.delete_job; runs inside a transaction of the caller's."""
    connection.execute(_DELETE_JOB, (job_id,))
