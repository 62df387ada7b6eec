"""What is found out, and put in order, when a database is opened."""

from __future__ import annotations

import asyncpg

from marketd.domain.errors import StorageFailed
from marketd.storage.postgres.connection import FAILURES, Connections, reason
from marketd.storage.postgres.schema import migrate
from marketd.storage.postgres.timescale import Found, install

OLDEST = 15


async def prepare(connections: Connections) -> tuple[Found, str]:
    """Brings the database up to date; says what it has, and its identity.

    StorageFailed says what to do.
    """
    try:
        async with connections.one() as connection:
            major = connection.get_server_version().major
            if major < OLDEST:
                raise StorageFailed(
                    f"The database server is PostgreSQL {major}, and marketd needs {OLDEST} or newer."
                )
            if await connection.fetchval("SELECT pg_is_in_recovery()"):
                raise StorageFailed(
                    "The database server is a standby, which only reads. "
                    "Name the primary in [storage] url."
                )
            async with connection.transaction():
                identity = await migrate(connection)
                return await install(connection), identity
    except (asyncpg.InsufficientPrivilegeError, asyncpg.InvalidSchemaNameError) as error:
        raise StorageFailed(
            f"The database user lacks rights: {reason(error)}. "
            "Let it make tables (GRANT CREATE, USAGE ON SCHEMA public TO …), or name another user or "
            "database in [storage] url."
        ) from error
    except FAILURES as error:
        raise StorageFailed(f"The database cannot be opened: {reason(error)}.") from error
