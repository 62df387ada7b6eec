"""ccxt's objects: made, aimed at an address, given markets, shared between streams and closed."""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import urlsplit

from marketd.domain.errors import ProviderFailed
from marketd.plugins.http import decode
from marketd_ccxt.errors import translated
from marketd_ccxt.exchanges import exchange_class
from marketd_ccxt.rows import bars_of

T = TypeVar("T")


def make_client(settings: Mapping[str, Any], credentials: Mapping[str, Any]) -> Any:
    """A client of the exchange, with streams if ccxt has them. Takes a moment; opens nothing.

    ccxt's own throttle is off: marketd keeps to the rate limit.
    """
    exchange = settings["exchange"]
    client = exchange_class(exchange)(
        {
            "enableRateLimit": False,
            "apiKey": credentials["api_key"],
            "secret": credentials["secret"],
            "password": credentials["password"],
            "uid": credentials["uid"],
        }
    )
    _make_strict(client)
    # It waits so that connections may end; aiohttp itself waits for that by now.
    client.timeout_on_exit = 0
    _choose_types(client, settings["types"])
    if settings["sandbox"]:
        if not client.urls.get("test"):
            raise ProviderFailed(f"{exchange} has no test system.", transient=False)
        client.set_sandbox_mode(True)
    if settings["base_url"]:
        client.urls["api"] = _aimed(client.urls["api"], settings["base_url"].rstrip("/"))
    return client


async def load(make: Callable[[], Any]) -> Any:
    """A client with the exchange's markets, closed again: for others to take the markets from.

    For a large exchange that is a quarter of a second of computing: it has a thread and a loop of its
    own. The credentials, if there are any, are tried.
    """

    async def loaded() -> Any:
        client = make()
        client.on_json_response = decode
        try:
            with translated(client):
                await client.load_markets()
                if client.apiKey:
                    await _try_key(client)
        finally:
            # Of requests made at once, ccxt leaves the others behind when one fails.
            others = asyncio.all_tasks() - {asyncio.current_task()}
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)
            await client.close()
        return client

    return await _in_a_thread(loaded)


def sharing(make: Callable[[], Any], loaded: Any) -> Any:
    """Another client, with the markets of `loaded`."""
    client = make()
    client.set_markets_from_exchange(loaded)
    client.ssl_context = loaded.ssl_context
    return client


@dataclass(slots=True)
class _Shared:
    client: Any
    users: int = 0


class SharedClients:
    """Clients that streams of the same key share, and with them a socket.

    One that failed is given up, since what it had gathered before is out of date after it.
    """

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make
        self._making = asyncio.Lock()
        self._shared: dict[str, _Shared] = {}

    @asynccontextmanager
    async def using(self, key: str) -> AsyncIterator[Any]:
        """The client of `key`, closed when its last user has left."""
        async with self._making:
            shared = self._shared.get(key)
            if shared is None:
                shared = self._shared[key] = _Shared(await asyncio.to_thread(self._make))
        shared.users += 1
        try:
            with translated(shared.client):
                yield shared.client
        except Exception:
            self._give_up(key, shared)
            raise
        finally:
            shared.users -= 1
            if not shared.users:
                self._give_up(key, shared)
                await shared.client.close()

    async def close(self) -> None:
        """Closes every client, under whoever uses it."""
        shared, self._shared = self._shared, {}
        for one in shared.values():
            await one.client.close()

    def _give_up(self, key: str, shared: _Shared) -> None:
        if self._shared.get(key) is shared:
            del self._shared[key]


async def _try_key(client: Any) -> None:
    from ccxt.base.errors import PermissionDenied

    try:
        await client.fetch_balance()
    except PermissionDenied:
        return  # the exchange knows the key, which may not see the balance
    except ValueError as error:
        # It cannot even sign with what it was given; the error's text may hold a part of it.
        told = f"{client.id}: the secret is not of the kind that is used there."
        raise ProviderFailed(told, transient=False) from error


def _make_strict(client: Any) -> None:
    """Lets no answer that was cut off, or is none, pass for one without bars.

    ccxt takes what it cannot read for text without a bar in it, and drops rows without a time.
    """
    from ccxt.base.errors import BadResponse

    tidy, parse = client.on_rest_response, client.parse_ohlcvs

    def on_rest_response(status: int, reason: str, url: str, method: str, *more: Any) -> Any:
        body = tidy(status, reason, url, method, *more)
        if 200 <= status < 300 and body and client.parse_json(body) is None:
            raise BadResponse(f"{client.id} sent no JSON")
        return body

    def parse_ohlcvs(
        rows: Any,
        market: Any = None,
        timeframe: str = "1m",
        since: int | None = None,
        limit: int | None = None,
        tail: Any = False,
    ) -> Any:
        bars = bars_of(parse(rows, market, timeframe))
        return client.filter_by_since_limit(bars, since, limit, 0, tail)

    client.on_rest_response, client.parse_ohlcvs = on_rest_response, parse_ohlcvs


def _choose_types(client: Any, types: list[str]) -> None:
    """Lets the exchange list the wanted types alone, where it can be told so."""
    listing = client.options.get("fetchMarkets")
    if isinstance(listing, dict) and isinstance(listing.get("types"), list):
        contracts = {"linear", "inverse"} if {"swap", "future"} & set(types) else set()
        listing["types"] = [one for one in listing["types"] if one in {*types, *contracts}]


def _aimed(addresses: Any, base: str) -> Any:
    """`addresses`, in whatever they are nested, behind `base`; ws:// for what is a WebSocket."""
    if isinstance(addresses, dict):
        return {name: _aimed(one, base) for name, one in addresses.items()}
    if not isinstance(addresses, str) or "://" not in addresses:
        return addresses
    scheme, _, rest = addresses.partition("://")
    target = urlsplit(base)._replace(scheme="ws").geturl() if scheme.startswith("ws") else base
    return f"{target}/{rest}"


async def _in_a_thread(work: Callable[[], Awaitable[T]]) -> T:
    """What `work` gives in an event loop of another thread; cancelling this cancels that."""
    begun: concurrent.futures.Future[tuple[asyncio.AbstractEventLoop, asyncio.Task[Any] | None]]
    begun = concurrent.futures.Future()

    async def run() -> T:
        begun.set_result((asyncio.get_running_loop(), asyncio.current_task()))
        return await work()

    try:
        return await asyncio.to_thread(lambda: asyncio.run(run()))
    except asyncio.CancelledError:
        if begun.done():
            loop, task = begun.result()
            with suppress(RuntimeError):  # its loop has ended just now
                loop.call_soon_threadsafe(task.cancel if task else loop.stop)
        raise
