"""Acme as a provider, against a server that answers as Acme does."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, ClassVar

from aiohttp import web
from aiohttp.test_utils import TestServer
from marketd_acme import AcmePlugin

from marketd.plugins import MarketPlugin
from marketd.plugins.testing import ProviderKit

START, MINUTE = 1_709_647_200_000, 60_000
BARS = [[START + i * MINUTE, "1.5", "1.75", "1.25", "1.5", "10"] for i in range(100)]


async def symbols(request: web.Request) -> web.Response:
    if request.headers["X-Key"] != "k":
        return web.json_response({}, status=401)
    return web.json_response([{"id": "EURUSD", "name": "Euro in US dollars"}])


async def bars(request: web.Request) -> web.Response:
    query = request.query
    if query["symbol"] != "EURUSD":
        return web.json_response({}, status=404)
    found = [bar for bar in BARS if int(query["start"]) <= bar[0] < int(query["end"])]
    return web.json_response(found[: int(query["count"])])


class TestAcme(ProviderKit):
    plugin_class = AcmePlugin
    credentials: ClassVar[Mapping[str, Any]] = {"key": "k"}
    market = "forex"
    symbol = "EURUSD"
    since = START
    before = "2024-03-05T14:20:00Z"

    @asynccontextmanager
    async def provider(self) -> AsyncIterator[MarketPlugin]:
        app = web.Application()
        app.add_routes([web.get("/symbols", symbols), web.get("/bars", bars)])
        async with TestServer(app) as vendor:
            self.settings = {"url": str(vendor.make_url("/"))}
            async with super().provider() as plugin:
                yield plugin

    def failures(self) -> Mapping[str, Any]:
        return {"wrong key": self.with_a_wrong_key}

    @asynccontextmanager
    async def with_a_wrong_key(self) -> AsyncIterator[MarketPlugin]:
        self.credentials = {"key": "stolen"}
        async with self.provider() as plugin:
            yield plugin
