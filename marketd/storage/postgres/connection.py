"""The way to a PostgreSQL server: a few connections, made anew when they break, and plain words for
what goes wrong with them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TypeAlias
from urllib.parse import unquote, urlsplit

import asyncpg
from asyncpg.pool import PoolConnectionProxy

from marketd.domain.errors import StorageFailed

Connection: TypeAlias = "PoolConnectionProxy[asyncpg.Record]"
Pool: TypeAlias = "asyncpg.Pool[asyncpg.Record]"

# Whatever a database may do wrong on the way or by itself; also a value that it has no place for.
FAILURES = (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError, ValueError)
# How long a connection, and then a statement, may take: a server that is away keeps nobody longer.
_CONNECT_S = 5.0
_STATEMENT_S = 10.0
_IDLE_S = 60.0

_SESSION = {
    "application_name": "marketd",
    # Who dies in the middle of a transaction without a word is not to hold up the others for long.
    "idle_in_transaction_session_timeout": "30s",
    # Compiling what is planned to be long costs more than it saves here.
    "jit": "off",
}
_AWAY = (asyncpg.PostgresConnectionError, asyncpg.InterfaceError, OSError, TimeoutError)


async def connect(url: str, connections: int) -> Pool:
    """A pool over the database at `url`, reached once; else StorageFailed that says what to do."""
    where = _place(url)
    try:
        pool: Pool = await asyncpg.create_pool(
            url,
            min_size=1,
            max_size=connections,
            max_inactive_connection_lifetime=_IDLE_S,
            timeout=_CONNECT_S,
            command_timeout=_STATEMENT_S,
            server_settings=_SESSION,
            reset=_keep,
        )
    except FAILURES as error:
        raise StorageFailed(_refusal(error, url, where)) from error
    return pool


@asynccontextmanager
async def acquired(pool: Pool) -> AsyncIterator[Connection]:
    """One of the connections, for as long as the block lasts."""
    async with pool.acquire(timeout=_STATEMENT_S) as connection:
        yield connection


def is_away(error: BaseException) -> bool:
    """True if the server could not be reached, so that nothing is known against what it was told."""
    return (
        isinstance(error, _AWAY)
        or (
            isinstance(error, asyncpg.PostgresError)
            # Shutting down, crashed, starting up, or out of connections.
            and getattr(error, "sqlstate", "")[:2] in ("57", "53")
        )
    )


def reason(error: BaseException) -> str:
    """Why a statement failed, in a few words without any value or address in them."""
    if isinstance(error, TimeoutError):
        return "it did not answer in time"
    if is_away(error) and not isinstance(error, asyncpg.PostgresError):
        return "it cannot be reached"
    if isinstance(error, asyncpg.DataError | ValueError | OverflowError):
        return "it has no place for such a value"
    # The first line of a server's message; its details may hold values.
    return str(error.args[0] if error.args else error).partition("\n")[0]


async def _keep(connection: object) -> None:
    """A connection goes back as it is: nothing here changes the session."""


def _place(url: str) -> str:
    """The server and database of `url` without who logs in, for people."""
    parts = urlsplit(url)
    server = parts.netloc.rpartition("@")[2] or "the local socket"
    return f"{server}/{unquote(parts.path[1:])}" if len(parts.path) > 1 else server


def _refusal(error: BaseException, url: str, where: str) -> str:
    """What to say, and to do, where there is no connection to be had at the start."""
    user = unquote(urlsplit(url).username or "") or "the system's user"
    match error:
        case asyncpg.InvalidPasswordError() | asyncpg.InvalidAuthorizationSpecificationError():
            return (
                f"The database {where} does not let {user} in. "
                "Check the user and the password in [storage] url, and the server's pg_hba.conf."
            )
        case asyncpg.InvalidCatalogNameError():
            name = unquote(urlsplit(url).path[1:]) or user
            return (
                f"There is no database {name} on its server. "
                f'Make it (CREATE DATABASE "{name}"), or name another in [storage] url.'
            )
        case asyncpg.PostgresError():
            return f"The database {where} cannot be opened: {reason(error)}."
        case ValueError() | asyncpg.InterfaceError():
            return f"The database {where} cannot be opened: [storage] url is not one to connect with."
    return (
        f"Nothing answers at {where}. "
        "Start PostgreSQL there, or correct [storage] url (postgresql://user:password@host:port/name)."
    )
