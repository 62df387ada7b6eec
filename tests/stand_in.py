"""A vendor of bars on loopback, which can be told to misbehave in every way that vendors have.

It speaks HTTP: `GET /bars?symbol=&since=&before=&limit=` answers rows `[t,o,h,l,c,v]` as JSON. It keeps
a log of every request, and may enforce a rate limit.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple, TypeAlias

from aiohttp import web

from marketd.clock import Clock
from marketd.domain.bar import Bar, select
from marketd.domain.rate_limit import RateLimit
from marketd.domain.timerange import TimeRange

SYMBOL = "BTC/USD"
ENTRY = ("stand_in", "stand_in_plugin")


class Asked(NamedTuple):
    """One request."""

    at_s: float
    symbol: str
    span: TimeRange
    limit: int
    venue: str


class Vendor:
    """The bars of some symbols, known up to the clock's present.

    `moods` say what the next answers are like, in order; `mood` what all others are.
    """

    def __init__(self, bars: Sequence[Bar], clock: Clock) -> None:
        self.bars = list(bars)
        self.clock = clock
        self.page_limit = 100
        self.rate_limit: RateLimit | None = None
        self.moods: list[Mood] = []
        self.mood: Mood = well
        self.asked: list[Asked] = []
        self.refused = 0
        self.url = ""
        self._allowed_s: list[float] = []
        self._runner: web.AppRunner | None = None

    async def start(self) -> None:
        app = web.Application()
        app.add_routes([web.get("/bars", self._handle)])
        self._runner = web.AppRunner(
            app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1
        )
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = "http://{}:{}".format(*self._runner.addresses[0][:2])

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    def truth(self, span: TimeRange) -> list[Bar]:
        """The bars of `span` that have closed or are forming."""
        end_ms = min(span.end_ms, self.clock.now_ms() + 1)
        return list(select(self.bars, since=span.start_ms, before=end_ms))

    def _allows(self, limit: RateLimit, now_s: float) -> bool:
        """Counts what was allowed in the window that ends now."""
        begin_s = now_s - limit.per_ms / 1000
        self._allowed_s = [at_s for at_s in self._allowed_s if at_s > begin_s]
        if len(self._allowed_s) >= limit.requests + limit.burst:
            return False
        self._allowed_s.append(now_s)
        return True

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        query = request.query
        span = TimeRange(int(query["since"]), int(query["before"]))
        limit, venue = int(query["limit"]), query.get("venue", "")
        asked = Asked(time.monotonic(), query["symbol"], span, limit, venue)
        self.asked.append(asked)
        if self.rate_limit is not None and not self._allows(self.rate_limit, asked.at_s):
            self.refused += 1
            return web.Response(status=429, headers={"Retry-After": "0.1"})
        mood = self.moods.pop(0) if self.moods else self.mood
        return await mood(self, asked, request)


Mood: TypeAlias = Callable[[Vendor, Asked, web.Request], Awaitable[web.StreamResponse]]


def answer(body: Any) -> web.Response:
    return web.Response(text=json.dumps(body), content_type="application/json")


def page(vendor: Vendor, asked: Asked) -> list[Bar]:
    """What a vendor in its right mind answers."""
    return vendor.truth(asked.span)[: min(asked.limit, vendor.page_limit)]


async def well(vendor: Vendor, asked: Asked, request: web.Request) -> web.Response:
    return answer(page(vendor, asked))


def slow(for_s: float) -> Mood:
    async def mood(vendor: Vendor, asked: Asked, request: web.Request) -> web.StreamResponse:
        await asyncio.sleep(for_s)
        return await well(vendor, asked, request)

    return mood


def status(code: int, **headers: str) -> Mood:
    async def mood(vendor: Vendor, asked: Asked, request: web.Request) -> web.StreamResponse:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return web.Response(status=code, text="https://vendor/?key=secret", headers=named)

    return mood


async def hanging(vendor: Vendor, asked: Asked, request: web.Request) -> web.StreamResponse:
    await asyncio.Event().wait()
    raise AssertionError


async def cut(vendor: Vendor, asked: Asked, request: web.Request) -> web.StreamResponse:
    """Half a body, and the connection is gone."""
    body = json.dumps(page(vendor, asked)).encode()
    response = web.StreamResponse(headers={"Content-Length": str(len(body))})
    await response.prepare(request)
    await response.write(body[: len(body) // 2])
    assert request.transport is not None
    request.transport.abort()
    return response


def saying(body: Any) -> Mood:
    async def mood(vendor: Vendor, asked: Asked, request: web.Request) -> web.StreamResponse:
        if isinstance(body, str):
            return web.Response(text=body, content_type="application/json")
        return answer(body)

    return mood


def rows(change: Callable[[list[Bar], Vendor, Asked], list[Any]]) -> Mood:
    """The right page, changed."""

    async def mood(vendor: Vendor, asked: Asked, request: web.Request) -> web.StreamResponse:
        return answer(change(page(vendor, asked), vendor, asked))

    return mood
