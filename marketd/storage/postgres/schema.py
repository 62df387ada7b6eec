"""The PostgreSQL schema as its history: migrations run forward only, each once, in order."""

from __future__ import annotations

from marketd.domain.errors import StorageFailed
from marketd.storage.postgres.connection import Connection

# A series and an instrument are found by a digest of their name, since a name may be longer than an
# index takes. There are no foreign keys: they would be looked up again for every bar, and a series is
# found or made in the transaction that names it.
MIGRATIONS = (
    """
    CREATE TABLE series (
        id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        digest BYTEA NOT NULL UNIQUE,
        market TEXT NOT NULL,
        provider TEXT NOT NULL,
        symbol TEXT NOT NULL,
        timeframe TEXT NOT NULL,
        variant TEXT NOT NULL
    );
    CREATE TABLE bar (
        series BIGINT NOT NULL,
        t BIGINT NOT NULL,
        open DOUBLE PRECISION,
        high DOUBLE PRECISION,
        low DOUBLE PRECISION,
        close DOUBLE PRECISION,
        volume DOUBLE PRECISION,
        rev INTEGER NOT NULL DEFAULT 0,
        revised_at BIGINT,
        PRIMARY KEY (series, t)
    );
    CREATE TABLE coverage (
        series BIGINT NOT NULL,
        range_start BIGINT NOT NULL,
        range_end BIGINT NOT NULL,
        reason TEXT NOT NULL,
        PRIMARY KEY (series, range_start)
    );
    CREATE TABLE rollup (
        series BIGINT NOT NULL,
        timeframe TEXT NOT NULL,
        t BIGINT NOT NULL,
        open DOUBLE PRECISION,
        high DOUBLE PRECISION,
        low DOUBLE PRECISION,
        close DOUBLE PRECISION,
        volume DOUBLE PRECISION,
        PRIMARY KEY (series, timeframe, t)
    );
    CREATE TABLE fresh (
        series BIGINT NOT NULL,
        kept TEXT NOT NULL,
        range_start BIGINT NOT NULL,
        range_end BIGINT NOT NULL,
        claim BIGINT,
        PRIMARY KEY (series, kept, range_start)
    );
    CREATE TABLE instrument (
        id BIGINT GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        digest BYTEA NOT NULL UNIQUE,
        market TEXT NOT NULL,
        provider TEXT NOT NULL,
        symbol TEXT NOT NULL
    );
    CREATE TABLE tick (
        instrument BIGINT NOT NULL,
        t BIGINT NOT NULL,
        digest BYTEA NOT NULL,
        place BIGINT GENERATED ALWAYS AS IDENTITY,
        price DOUBLE PRECISION NOT NULL,
        size DOUBLE PRECISION NOT NULL,
        side TEXT NOT NULL,
        id TEXT NOT NULL,
        PRIMARY KEY (instrument, t, digest)
    );
    CREATE TABLE job (
        id TEXT PRIMARY KEY,
        kind TEXT NOT NULL,
        state TEXT NOT NULL,
        body TEXT NOT NULL,
        created_ms BIGINT NOT NULL,
        updated_ms BIGINT NOT NULL
    );
    """,
    """
    ALTER TABLE series ADD COLUMN fence BIGINT NOT NULL DEFAULT 0;
    ALTER TABLE marketd_schema ADD COLUMN identity UUID NOT NULL DEFAULT gen_random_uuid();
    """,
    # What is known of an instrument's trades. Those stored before there was this prove nothing.
    """
    CREATE TABLE tick_coverage (
        instrument BIGINT NOT NULL,
        range_start BIGINT NOT NULL,
        range_end BIGINT NOT NULL,
        reason TEXT NOT NULL,
        PRIMARY KEY (instrument, range_start)
    );
    """,
    """
    CREATE INDEX job_by_kind ON job (kind, created_ms, id COLLATE "C");
    """,
    # When a job is to be worked on, and by whom: those that had not ended are to be at once.
    """
    ALTER TABLE job ADD COLUMN due_ms BIGINT, ADD COLUMN claim TEXT NOT NULL DEFAULT '',
        ADD COLUMN claimed_until TIMESTAMPTZ;
    UPDATE job SET due_ms = created_ms WHERE state IN ('pending', 'running');
    CREATE INDEX job_by_due ON job (kind, due_ms, created_ms, id COLLATE "C");
    """,
    # Changes are numbered, series by series; of those from before there is no number.
    """
    CREATE TABLE revision (
        series BIGINT NOT NULL,
        t BIGINT NOT NULL,
        number BIGINT NOT NULL,
        PRIMARY KEY (series, t)
    );
    CREATE INDEX revision_by_number ON revision (series, number, t);
    """,
    # An instrument's trades have a leader, too, and those stored last are found by their place.
    """
    ALTER TABLE instrument ADD COLUMN fence BIGINT NOT NULL DEFAULT 0,
        ADD COLUMN last_place BIGINT NOT NULL DEFAULT 0;
    UPDATE instrument SET last_place =
        coalesce((SELECT max(place) FROM tick WHERE tick.instrument = instrument.id), 0);
    CREATE INDEX tick_by_place ON tick (instrument, place);
    """,
)
# Any number that no other program takes for its own lock in the same database.
_LOCK = 0x6D61726B657464
_FIRST_VERSION = """
    INSERT INTO marketd_schema (version) SELECT 0 WHERE NOT EXISTS (SELECT FROM marketd_schema)
"""


async def migrate(connection: Connection) -> str:
    """Brings the schema up to date, whole or not at all, and gives the identity of the database.

    Of several that ask at once one does it.

    To be called in a transaction; the others wait until it has ended.
    """
    await connection.execute("SELECT pg_advisory_xact_lock($1)", _LOCK, timeout=None)
    await connection.execute("CREATE TABLE IF NOT EXISTS marketd_schema (version INTEGER NOT NULL)")
    await connection.execute(_FIRST_VERSION)
    version = await connection.fetchval("SELECT version FROM marketd_schema")
    if version > len(MIGRATIONS):
        raise StorageFailed(
            f"The database has schema {version}, made by a newer marketd; "
            f"this one knows schemas up to {len(MIGRATIONS)}. "
            "Upgrade marketd, or choose another database with [storage] url."
        )
    for script in MIGRATIONS[version:]:
        await connection.execute(script, timeout=None)
    if version < len(MIGRATIONS):
        await connection.execute("UPDATE marketd_schema SET version = $1", len(MIGRATIONS))
    return str(await connection.fetchval("SELECT identity FROM marketd_schema"))
