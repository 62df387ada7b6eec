"""Jobs: functions over one connection, each run whole."""

from __future__ import annotations

import sqlite3
import time
from uuid import uuid4

from marketd.domain.errors import Superseded
from marketd.storage.records import Job, in_turn

_SAVE_JOB = """
    INSERT INTO job (id, kind, state, body, created_ms, updated_ms, due_ms)
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)
    ON CONFLICT (id) DO UPDATE SET kind = excluded.kind, state = excluded.state, body = excluded.body,
        created_ms = excluded.created_ms, updated_ms = excluded.updated_ms, due_ms = excluded.due_ms
    WHERE claim = ''
"""
_SAVE_CLAIMED_JOB = """
    UPDATE job SET kind = ?2, state = ?3, body = ?4, created_ms = ?5, updated_ms = ?6, due_ms = ?7,
        claim = CASE WHEN ?9 THEN claim ELSE '' END, claimed_until_ms = ?9
    WHERE id = ?1 AND claim = ?8
"""
_CLAIM_JOBS = """
    UPDATE job SET claim = ?4, claimed_until_ms = ?5
    WHERE id IN (
        SELECT id FROM job
        WHERE kind = ?1 AND due_ms <= ?2 AND (claim = '' OR claimed_until_ms <= ?6)
        ORDER BY due_ms, created_ms, id LIMIT ?3)
    RETURNING id, kind, state, body, created_ms, updated_ms, due_ms, claim
"""
# Whoever owns the file now knows that whoever had claimed something is gone.
_END_CLAIMS = "UPDATE job SET claim = '' WHERE claim <> ''"
_READ_JOB = """
    SELECT id, kind, state, body, created_ms, updated_ms, due_ms, claim FROM job WHERE id = ?
"""
_READ_JOBS = """
    SELECT id, kind, state, body, created_ms, updated_ms, due_ms, claim FROM job WHERE kind = ?
    ORDER BY created_ms, id
"""
_DELETE_JOB = "DELETE FROM job WHERE id = ?"


def save(connection: sqlite3.Connection, job: Job, lease_ms: int) -> None:
    """See Storage.save_job; runs inside a transaction of the caller's."""
    if job.claim:
        until_ms = _now_ms() + lease_ms if lease_ms else 0
        saved = connection.execute(_SAVE_CLAIMED_JOB, (*job, until_ms)).rowcount
    else:
        saved = connection.execute(_SAVE_JOB, job[:-1]).rowcount
    if not saved:
        raise Superseded("Another has claimed this job by now.")


def claim(connection: sqlite3.Connection, kind: str, now_ms: int, most: int, lease_ms: int) -> list[Job]:
    """See Storage.claim_jobs; runs inside a transaction of the caller's."""
    until_ms = _now_ms() + lease_ms
    claimed = (kind, now_ms, most, uuid4().hex, until_ms, until_ms - lease_ms)
    return in_turn(Job(*row) for row in connection.execute(_CLAIM_JOBS, claimed))


def end_claims(connection: sqlite3.Connection) -> None:
    """Whatever is claimed is free again."""
    connection.execute(_END_CLAIMS)


def one(connection: sqlite3.Connection, job_id: str) -> Job | None:
    """See Storage.job."""
    row = connection.execute(_READ_JOB, (job_id,)).fetchone()
    return None if row is None else Job(*row)


def read(connection: sqlite3.Connection, kind: str) -> list[Job]:
    """See Storage.jobs."""
    return [Job(*row) for row in connection.execute(_READ_JOBS, (kind,))]


def delete(connection: sqlite3.Connection, job_id: str) -> None:
    """See Storage.delete_job; runs inside a transaction of the caller's."""
    connection.execute(_DELETE_JOB, (job_id,))


def _now_ms() -> int:
    return time.time_ns() // 1_000_000
