"""The command's end: the store of a daemon that runs, as if it were here."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any

import aiohttp

from marketd.control import wire
from marketd.control.address import reachable
from marketd.domain.bar import Bar
from marketd.domain.coverage import Covered
from marketd.domain.errors import Conflict, StorageFailed
from marketd.domain.instrument import Series
from marketd.domain.timerange import TimeRange
from marketd.storage.records import Checkup, QueryPlan, Stored, StoredBars

_HELLO_S = 10.0


class NobodyListens(Exception):
    """There is no daemon behind the socket."""


class RemoteStore:
    """The part of `Storage` that commands use, asked of a daemon. Raises MarketdError as that does."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session

    async def series_list(self) -> list[Series]:
        return [wire.series_in(one) for one in await self._ask("series")]

    async def store(
        self, series: Series, bars: Sequence[Bar], covered: Sequence[Covered], *, at_ms: int
    ) -> Stored:
        question = [wire.series_out(series), bars, covered, at_ms]
        return wire.stored_in(await self._ask("store", question))

    async def read(
        self, series: Series, span: TimeRange, *, limit: int, newest: bool = False
    ) -> StoredBars:
        return wire.read_in(await self._ask("read", [wire.series_out(series), span, limit, newest]))

    async def check(self) -> Checkup:
        return wire.checkup_in(await self._ask("check"))

    async def back_up(self, target: Path, *, replace: bool) -> None:
        await self._ask("backup", [str(target), replace])

    async def profile(self) -> list[QueryPlan]:
        return wire.plans_in(await self._ask("profile"))

    async def _ask(self, what: str, question: Any = None) -> Any:
        try:
            status, answer = await _post(self._session, what, question)
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise StorageFailed(
                "The daemon went away before it answered. Run the command again: what was stored stays."
            ) from error
        if status != HTTPStatus.OK:
            code, message = answer
            raise (Conflict if code == Conflict.code else StorageFailed)(message)
        return answer


async def _post(session: aiohttp.ClientSession, what: str, question: Any) -> tuple[int, Any]:
    async with session.post(f"http://marketd/{what}", data=wire.pack(question)) as response:
        return response.status, wire.unpack(await response.read())


@asynccontextmanager
async def connected(path: Path) -> AsyncIterator[RemoteStore]:
    """The store of the daemon that listens at `path`; NobodyListens if there is none."""
    async with AsyncExitStack() as opened:
        try:
            address = opened.enter_context(reachable(path))
            connector = aiohttp.UnixConnector(address)
            timeout = aiohttp.ClientTimeout(total=None)
            session = await opened.enter_async_context(
                aiohttp.ClientSession(connector=connector, timeout=timeout)
            )
            async with asyncio.timeout(_HELLO_S):
                await _post(session, "hello", None)
        except TimeoutError:
            raise StorageFailed("The daemon is there and does not answer.") from None
        except PermissionError:
            raise StorageFailed(
                f"{path} belongs to another user: run the command as the user of the daemon."
            ) from None
        except OSError as error:
            raise NobodyListens from error
        yield RemoteStore(session)
