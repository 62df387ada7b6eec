"""Word of what other processes write to the same database.

Who changes bars says so within the transaction (NOTIFY), so that it is heard of once it is committed
and not otherwise. What was said while nobody listened is not said again.
"""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
from collections.abc import Callable, Iterable
from typing import NamedTuple

import asyncpg

from marketd.domain.instrument import Series
from marketd.domain.timerange import TimeRange
from marketd.storage.postgres import names
from marketd.storage.postgres.connection import FAILURES, Connection, Connections, reason
from marketd.storage.records import Change

log = logging.getLogger(__name__)

# Nodes that share a schema share a channel; other schemas of the database have their own.
_CHANNEL = "SELECT 'marketd_' || 'marketd_schema'::regclass::oid"
_SAY = "SELECT pg_notify($1, note) FROM unnest($2::text[]) AS note"
_WRITTEN = re.compile(r"(\w+) (\d{1,18}) (-?\d{1,18}) (-?\d{1,18}) ([01])", re.ASCII)
_RETRY_S = 1.0
# Who hears nothing for a second asks whether the server is still there: a leader that is cut off from it
# has to notice, and to give way, while its followers wait for a bar.
_PROBE_S = 1.0
_PATIENCE_S = 2.0
# Of more notes that wait it is enough to know that there were many.
_MOST = 1_000


class Note(NamedTuple):
    """One write: which bars of which series it changed; see Change."""

    series_id: int
    span: TimeRange
    is_revision: bool

    def written(self, node: str) -> str:
        return f"{node} {self.series_id} {self.span.start_ms} {self.span.end_ms} {self.is_revision:d}"

    @classmethod
    def read(cls, text: str) -> tuple[str, Note | None]:
        """The node that said it, and what it said; None of what is no note."""
        match = _WRITTEN.fullmatch(text)
        if match is None:
            return "", None
        node, series_id, start_ms, end_ms, is_revision = match.groups()
        return node, cls(int(series_id), TimeRange(int(start_ms), int(end_ms)), is_revision == "1")


class Notes:
    """One node's part in it: it says what it writes, and hears what the others do.

    `tell` is given every change of another node, and None after some may have been missed; `lost` why
    the connection for that broke.
    """

    def __init__(
        self,
        connections: Connections,
        tell: Callable[[Change | None], None],
        lost: Callable[[BaseException], object],
    ) -> None:
        self._connections = connections
        self._tell = tell
        self._lost = lost
        self._node = secrets.token_hex(8)
        self._channel = ""
        self._heard: asyncio.Queue[str | None] = asyncio.Queue(_MOST)
        self._series: dict[int, Series] = {}
        self._following: asyncio.Task[None] | None = None

    async def open(self, *, hears: bool) -> None:
        """To be called once the schema is there; who hears has a connection for it alone."""
        async with self._connections.one() as connection:
            self._channel = await connection.fetchval(_CHANNEL)
        if hears:
            listening = await self._listening()
            self._following = asyncio.create_task(self._follow(listening))

    async def close(self) -> None:
        """Hears no more."""
        if self._following is not None:
            self._following.cancel()
            await asyncio.wait([self._following])
            self._following = None

    async def say(self, connection: Connection, notes: Iterable[Note]) -> None:
        """Within the transaction that makes the changes."""
        written = [note.written(self._node) for note in notes]
        if written:
            await connection.execute(_SAY, self._channel, written)

    async def _listening(self) -> asyncpg.Connection[asyncpg.Record]:
        connection = await self._connections.apart("marketd listening")
        try:
            connection.add_termination_listener(lambda _: self._hear(None))
            await connection.add_listener(self._channel, lambda *said: self._hear(str(said[-1])))
        except BaseException:
            connection.terminate()
            raise
        return connection

    def _hear(self, text: str | None) -> None:
        """Puts a note, or None in place of any that are missed, where it is waited for."""
        if text is not None and self._heard.full():
            text = None
        if text is None:
            while not self._heard.empty():
                self._heard.get_nowait()
        self._heard.put_nowait(text)

    async def _follow(self, connection: asyncpg.Connection[asyncpg.Record]) -> None:
        """Passes on what is heard, and listens again whenever that has ended."""
        try:
            while True:
                try:
                    await self._pass_on(connection)
                except FAILURES as error:
                    log.warning("changes by other processes not heard reason=%s", reason(error))
                    self._lost(error)
                connection.terminate()
                connection = await self._again()
                log.info("changes by other processes heard again")
        finally:
            connection.terminate()

    async def _again(self) -> asyncpg.Connection[asyncpg.Record]:
        while True:
            # Also before it is tried: what others do meanwhile is not heard of.
            self._tell(None)
            try:
                connection = await self._listening()
            except FAILURES:
                await asyncio.sleep(_RETRY_S)
                continue
            self._tell(None)
            return connection

    async def _pass_on(self, connection: asyncpg.Connection[asyncpg.Record]) -> None:
        """Until the connection breaks, which raises."""
        while True:
            try:
                async with asyncio.timeout(_PROBE_S):
                    text = await self._heard.get()
            except TimeoutError:
                await connection.execute("SELECT 1", timeout=_PATIENCE_S)
                continue
            if connection.is_closed():
                raise ConnectionError
            node, note = Note.read(text) if text is not None else ("", None)
            if node != self._node:
                self._tell(None if note is None else await self._change(connection, note))

    async def _change(self, connection: asyncpg.Connection[asyncpg.Record], note: Note) -> Change | None:
        series = self._series.get(note.series_id)
        if series is None:
            series = await names.series_of(connection, note.series_id)
            if series is None:
                return None
            self._series[note.series_id] = series
        return Change(series, note.span, note.is_revision)
