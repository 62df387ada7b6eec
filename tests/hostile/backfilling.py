"""Backfills over REST, as a client begins and watches them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from itertools import pairwise
from typing import Any

from aiohttp import web
from besieged import MINUTE, START, M, World
from stand_in import SYMBOL, Asked, Mood, Vendor, hanging, well

from marketd.config import KeptConfig
from marketd.config.kept import Since
from marketd.config.settings import Millis
from marketd.domain.timerange import TimeRange

PATH = "/api/v1/backfills"
ENDED = ("done", "failed", "cancelled")
HOUR = Millis(60 * M)
EPOCH = Since(at_ms=START)
NOTHING = Millis(0)


def only_from(at_ms: int) -> Mood:
    """What lies before is never answered."""

    async def mood(vendor: Vendor, asked: Asked, request: web.Request) -> web.StreamResponse:
        return await (well if asked.span.start_ms >= at_ms else hanging)(vendor, asked, request)

    return mood


async def call(world: World, method: str, path: str = PATH, **options: Any) -> tuple[int, Any]:
    async with world.session.request(method, path, **options) as response:
        return response.status, await response.json()


async def begin(world: World, **fields: Any) -> dict[str, Any]:
    wanted = {
        "market": "crypto",
        "provider": "vendor",
        "symbol": SYMBOL,
        "timeframe": "1m",
        "since": START,
        "before": START + 600 * M,
    }
    code, body = await call(world, "POST", json=wanted | fields)
    assert code == 201, body
    told: dict[str, Any] = body
    return told


async def until(
    world: World, backfill: dict[str, Any], when: Callable[[dict[str, Any]], bool]
) -> dict[str, Any]:
    """How the backfill stands, once it stands so."""
    async with asyncio.timeout(30):
        while True:
            code, body = await call(world, "GET", f"{PATH}/{backfill['id']}")
            assert code == 200
            if when(body):
                told: dict[str, Any] = body
                return told
            await asyncio.sleep(0.05)


async def ended(world: World, backfill: dict[str, Any]) -> dict[str, Any]:
    return await until(world, backfill, lambda told: told["state"] in ENDED)


def fetched_twice(world: World) -> list[TimeRange]:
    spans = sorted((one.symbol, one.span) for one in world.vendor.asked)
    return [
        later
        for (symbol, earlier), (other, later) in pairwise(spans)
        if symbol == other and later.start_ms < earlier.end_ms
    ]


def kept(**changed: Any) -> KeptConfig:
    """The vendor's minutes from START on, looked at once an hour; nothing is fetched again."""
    given = {
        "provider": "vendor",
        "market": "crypto",
        "symbols": (SYMBOL,),
        "timeframe": MINUTE,
        "since": EPOCH,
        "every": HOUR,
        "repair": NOTHING,
    }
    return KeptConfig(**(given | changed))


async def all_told(world: World) -> list[dict[str, Any]]:
    code, body = await call(world, "GET")
    assert code == 200
    told: list[dict[str, Any]] = body["backfills"]
    return told
