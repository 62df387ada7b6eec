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
from marketd.storage.base import Fault

Connection: TypeAlias = "PoolConnectionProxy[asyncpg.Record]"

_AWAY = (
    asyncpg.PostgresConnectionError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    OSError,
    TimeoutError,
)
# Whatever may go wrong with a database, or on the way to it.
FAILURES = (asyncpg.PostgresError, *_AWAY)
# A server that shuts down, starts up, is out of something, has become one that only reads, or whose
# disk fails.
_AWAY_STATES = ("57", "53", "25006", "58")
_KINDS = {"53100": Fault.FULL, "25006": Fault.READ_ONLY, "58030": Fault.IO}
_IDLE_S = 60.0
_SESSION = {
    "application_name": "marketd",
    # Who stops in the middle of a transaction without a word is not to hold up the others for longer
    # than a lease lasts.
    "idle_in_transaction_session_timeout": "3s",
    # Compiling what is planned to be long costs more than it saves here.
    "jit": "off",
}
_DURABLE = """
    SELECT set_config('synchronous_commit', 'on', false)
    WHERE current_setting('synchronous_commit') = 'off'
"""


class Connections:
    """A few connections to one database; neither getting one nor a statement may take long."""

    def __init__(self, pool: asyncpg.Pool[asyncpg.Record], url: str, patience_s: float) -> None:
        self._pool = pool
        self._url = url
        self._patience_s = patience_s

    @classmethod
    async def open(cls, url: str, *, most: int, patience_s: float) -> Connections:
        """Reaches the database at `url` once; StorageFailed that says what to do if it cannot."""
        try:
            pool = await asyncpg.create_pool(
                url,
                min_size=0,  # it would log a traceback when it cannot keep up more
                max_size=most,
                max_inactive_connection_lifetime=_IDLE_S,
                timeout=patience_s,
                command_timeout=patience_s,
                server_settings=_SESSION,
                init=_make_durable,
                reset=_keep,
            )
            async with pool.acquire():
                pass
        except (*FAILURES, ValueError) as error:
            raise StorageFailed(_refusal(error, url)) from error
        return cls(pool, url, patience_s)

    @asynccontextmanager
    async def one(self) -> AsyncIterator[Connection]:
        """One of the connections, for as long as the block lasts."""
        async with self._pool.acquire(timeout=self._patience_s) as connection:
            yield connection

    async def apart(self, name: str) -> asyncpg.Connection[asyncpg.Record]:
        """One more, the caller's to keep and to close; `name` is what the server shows of it."""
        return await asyncpg.connect(
            self._url,
            timeout=self._patience_s,
            command_timeout=self._patience_s,
            server_settings=_SESSION | {"application_name": name},
        )

    async def close(self) -> None:
        """Waits for those in use, then closes all."""
        await self._pool.close()

    def terminate(self) -> None:
        """Closes all at once, whatever is under way."""
        self._pool.terminate()


def is_away(error: BaseException) -> bool:
    """True if the server is not there or takes nothing, whatever it is told."""
    state = str(getattr(error, "sqlstate", "")) if isinstance(error, asyncpg.PostgresError) else ""
    return isinstance(error, _AWAY) or state.startswith(_AWAY_STATES)


def kind_of(error: BaseException) -> Fault:
    """What kind of fault it is that a server takes nothing."""
    return _KINDS.get(str(getattr(error, "sqlstate", "")), Fault.AWAY)


def reason(error: BaseException) -> str:
    """Why a statement failed, in a few words without any value or address in them."""
    match error:
        case TimeoutError():
            return "it did not answer in time"
        case asyncpg.DataError():
            return "it has no place for such a value"
        case asyncpg.PostgresError():
            # The details that would follow may hold values.
            return str(error.args[0] if error.args else type(error).__name__).partition("\n")[0]
    return "it cannot be reached" if is_away(error) else "of a fault of marketd's own"


async def _make_durable(connection: asyncpg.Connection[asyncpg.Record]) -> None:
    """What is acknowledged here is on the disk, also on a server that is set to promise it too soon."""
    await connection.execute(_DURABLE)


async def _keep(connection: object) -> None:
    """A connection goes back as it is: nothing here changes the session."""


def _refusal(error: BaseException, url: str) -> str:
    """What to say, and to do, where there is no connection to be had at the start."""
    parts = urlsplit(url)
    server = parts.netloc.rpartition("@")[2] or "the local socket"
    name = unquote(parts.path[1:])
    user = unquote(parts.username or "") or "the system's user"
    match error:
        case asyncpg.InvalidPasswordError() | asyncpg.InvalidAuthorizationSpecificationError():
            return (
                f"The database server at {server} does not let {user} in. Check the user and the "
                "password in [storage] url, and the server's pg_hba.conf."
            )
        case asyncpg.InvalidCatalogNameError():
            return (
                f"There is no database {name} at {server}. "
                f'Make it (CREATE DATABASE "{name}"), or name another in [storage] url.'
            )
        case asyncpg.PostgresError():
            return f"The database {name} at {server} cannot be opened: {reason(error)}."
        case asyncpg.ClientConfigurationError() | ValueError():
            return "[storage] url has an option that is none of PostgreSQL's, or a wrong value for one."
    return (
        f"Nothing answers at {server}. Start PostgreSQL there, "
        "or correct [storage] url (postgresql://user:password@host:port/name)."
    )
