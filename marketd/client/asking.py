"""The way to a daemon: a question, and its answer as JSON."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

import aiohttp
import orjson

from marketd.client.answers import Time, time_text
from marketd.client.errors import MarketdClientError, failure, not_marketd

DEFAULT_URL = "http://127.0.0.1:8710"
_TIMEOUT_S = 60.0


class Asking:
    """Asks the daemon at `url`, while the context is open."""

    def __init__(self, url: str = DEFAULT_URL) -> None:
        self.url = url.rstrip("/")
        self._session: aiohttp.ClientSession

    async def __aenter__(self) -> Self:
        self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_TIMEOUT_S))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._session.close()

    async def _get(self, path: str, question: Mapping[str, Time | None]) -> dict[str, Any]:
        given = {key: time_text(value) for key, value in question.items() if value is not None}
        return await self._ask("GET", path, params=given)

    async def _ask(self, method: str, path: str, **what: Any) -> dict[str, Any]:
        """The JSON answer to a question, whatever its status; a problem is raised."""
        try:
            async with self._session.request(method, self.url + path, **what) as response:
                kind = response.content_type
                content = await response.read()
        except (aiohttp.ClientError, OSError) as error:
            raise failure(self.url, error) from error
        if kind == "application/problem+json":
            body = orjson.loads(content)
            raise MarketdClientError(response.status, body["code"], body["detail"], body.get("field"))
        if kind != "application/json":
            raise not_marketd(self.url, response.status)
        answer: dict[str, Any] = orjson.loads(content)
        return answer
