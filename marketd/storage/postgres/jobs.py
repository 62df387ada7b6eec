"""Jobs: functions over one connection."""

from __future__ import annotations

from uuid import uuid4

from marketd.domain.errors import Superseded
from marketd.storage.postgres.connection import Connection
from marketd.storage.records import Job, in_turn

_SAVE = """
    INSERT INTO job (id, kind, state, body, created_ms, updated_ms, due_ms)
    VALUES ($1, $2, $3, $4, $5, $6, $7)
    ON CONFLICT (id) DO UPDATE SET kind = excluded.kind, state = excluded.state, body = excluded.body,
        created_ms = excluded.created_ms, updated_ms = excluded.updated_ms, due_ms = excluded.due_ms
    WHERE job.claim = '' RETURNING id
"""
_SAVE_CLAIMED = """
    UPDATE job SET kind = $2, state = $3, body = $4, created_ms = $5, updated_ms = $6, due_ms = $7,
        claim = CASE WHEN $9::bigint > 0 THEN claim ELSE '' END,
        claimed_until = now() + $9::bigint * interval '1 ms'
    WHERE id = $1 AND claim = $8 RETURNING id
"""
# What another claims at the same moment is passed over.
_CLAIM = """
    UPDATE job SET claim = $4, claimed_until = now() + $5::bigint * interval '1 ms'
    WHERE id IN (
        SELECT id FROM job
        WHERE kind = $1 AND due_ms <= $2 AND (claim = '' OR claimed_until <= now())
        ORDER BY due_ms, created_ms, id COLLATE "C" LIMIT $3 FOR UPDATE SKIP LOCKED)
    RETURNING id, kind, state, body, created_ms, updated_ms, due_ms, claim
"""
_ONE = """
    SELECT id, kind, state, body, created_ms, updated_ms, due_ms, claim FROM job WHERE id = $1
"""
_OF_KIND = """
    SELECT id, kind, state, body, created_ms, updated_ms, due_ms, claim FROM job
    WHERE kind = $1 ORDER BY created_ms, id COLLATE "C"
"""
_DELETE = "DELETE FROM job WHERE id = $1"


async def save(connection: Connection, job: Job, lease_ms: int) -> None:
    """See Storage.save_job."""
    if job.claim:
        saved = await connection.fetchval(_SAVE_CLAIMED, *job, lease_ms)
    else:
        saved = await connection.fetchval(_SAVE, *job[:-1])
    if saved is None:
        raise Superseded("Another has claimed this job by now.")


async def claim(connection: Connection, kind: str, now_ms: int, most: int, lease_ms: int) -> list[Job]:
    """See Storage.claim_jobs."""
    rows = await connection.fetch(_CLAIM, kind, now_ms, most, uuid4().hex, lease_ms)
    return in_turn(Job(*row) for row in rows)


async def one(connection: Connection, job_id: str) -> Job | None:
    """See Storage.job."""
    row = await connection.fetchrow(_ONE, job_id)
    return None if row is None else Job(*row)


async def read(connection: Connection, kind: str) -> list[Job]:
    """See Storage.jobs."""
    return [Job(*row) for row in await connection.fetch(_OF_KIND, kind)]


async def delete(connection: Connection, job_id: str) -> None:
    """See Storage.delete_job."""
    await connection.execute(_DELETE, job_id)
