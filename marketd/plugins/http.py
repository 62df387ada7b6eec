"""A vendor's HTTP interface, for plugins that talk to it without a client library of its own.

The one module of this room that knows HTTP: only plugins import it, and marketd itself never does.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from typing import Any, Never, TypeVar

import aiohttp
import orjson

from marketd.domain.errors import (
    MarketdError,
    NotReady,
    ProviderFailed,
    ProviderRateLimited,
    ProviderTimeout,
    UnknownSymbol,
)

T = TypeVar("T")

_LARGEST_BODY = 64 * 1024 * 1024
# Reading more than this would hold up the event loop: it is done in another thread.
_SMALL_BODY = 64 * 1024
_UNREADABLE = (ValueError, TypeError, LookupError, AttributeError, RecursionError)


class HttpClient:
    """GET requests to one vendor, whose answers are JSON; what goes wrong is raised as a MarketdError.

    `vendor` is its name in the sentences of errors. `headers` go with every request: put keys there,
    since an address is easily told. A redirection is not followed, so that no key goes elsewhere.
    Nothing is opened before the first request.
    """

    def __init__(self, vendor: str, base_url: str, *, headers: Mapping[str, str] | None = None) -> None:
        self.vendor = vendor
        self._base_url = base_url.rstrip("/")
        self._headers = headers
        self._session: aiohttp.ClientSession | None = None
        self._is_closed = False

    async def close(self) -> None:
        self._is_closed = True
        if self._session is not None:
            await self._session.close()

    async def get(self, path: str, query: Mapping[str, Any], read: Callable[[Any], T]) -> T:
        """What `read` makes of the answer to `path`, which begins with a slash and is quoted already.

        `read` is given the decoded JSON, in another thread if there is much of it. If it stumbles
        (a key that is not there, text that is no number), the vendor has sent what cannot be read.
        """
        if self._is_closed:
            raise NotReady(f"{self.vendor} is not open.")
        if self._session is None:
            self._session = aiohttp.ClientSession(headers=self._headers)
        asked = {name: str(value) for name, value in query.items() if value is not None}
        try:
            async with self._session.get(
                self._base_url + path, params=asked, allow_redirects=False
            ) as response:
                body = await self._body(response)
                status, answered = response.status, response.headers
        except TimeoutError as error:
            raise ProviderTimeout(f"{self.vendor} did not answer in time.") from error
        except (aiohttp.ClientError, OSError) as error:
            raise ProviderFailed(f"{self.vendor} cannot be reached.") from error
        if status != 200:
            raise self.refusal(status, answered, body)
        if len(body) <= _SMALL_BODY:
            return self._read(orjson.loads, body, read)
        return await asyncio.to_thread(self._read, decode, body, read)

    def refusal(self, status: int, headers: Mapping[str, str], body: bytes) -> MarketdError:
        """What an answer says that is not a 200; override where the vendor's own words say more."""
        return http_error(self.vendor, status, retry_after_s=retry_after_s(headers))

    async def _body(self, response: aiohttp.ClientResponse) -> bytes:
        body = bytearray()
        async for chunk in response.content.iter_any():
            body += chunk
            if len(body) > _LARGEST_BODY:
                raise ProviderFailed(f"{self.vendor} sent more than one answer may hold.")
        return bytes(body)

    def _read(self, loads: Callable[[bytes], Any], body: bytes, read: Callable[[Any], T]) -> T:
        try:
            return read(loads(body))
        except _UNREADABLE as error:
            raise ProviderFailed(f"{self.vendor} sent something that cannot be read.") from error


def decode(body: bytes | str) -> Any:
    """The JSON that a large `body` is, for another thread; ValueError or RecursionError if it is none.

    The event loop has its turn after each object in it, and is not kept waiting for all of them.
    """
    return json.loads(body, object_hook=_give_way, parse_constant=_refuse)


def _give_way(value: dict[str, Any]) -> dict[str, Any]:
    """Does nothing: but where Python begins a function, it lets another thread have its turn."""
    return value


def _refuse(constant: str) -> Never:
    raise ValueError(f"{constant} is no JSON")


def http_error(vendor: str, status: int, *, retry_after_s: float | None = None) -> MarketdError:
    """What a status of HTTP says, also where a vendor writes it into the body of a 200."""
    match status:
        case 401:
            return ProviderFailed(f"{vendor}: key refused by the provider.", transient=False)
        case 402 | 403:
            told = f"{vendor}: the key is refused, or its plan does not include this."
            return ProviderFailed(told, transient=False)
        case 404:
            return UnknownSymbol(f"{vendor} has nothing by that name.")
        case 429:
            told = f"{vendor} asks for patience."
            return ProviderRateLimited(told, retry_after_s=retry_after_s)
    # What the vendor does wrong may be right the next time; what was asked will not.
    is_transient = status >= 500 or status in (408, 425)
    return ProviderFailed(f"{vendor} answered with an error ({status}).", transient=is_transient)


def retry_after_s(headers: Mapping[str, str]) -> float | None:
    """The figure of `Retry-After`, where it is there in seconds."""
    told = headers.get("Retry-After", "")
    return float(told) if told.isascii() and told.isdigit() else None
