"""`python -m bench.exchange`: a local exchange with a year of minutes, which answers after 20 ms.

`GET /bars?since=&before=` answers at most 1,000 rows, `GET /asked` what was asked for and when.
"""

from __future__ import annotations

import asyncio
import socket
import time
from itertools import chain

import orjson
from aiohttp import web

from bench.series import FIRST_MS, MINUTE_MS, pages

PAGE = 1_000
YEAR_BARS = 525_600
END_MS = FIRST_MS + YEAR_BARS * MINUTE_MS
_LATENCY_S = 0.02


def application() -> web.Application:
    """The exchange; it keeps a list of what it was asked."""
    bars = list(chain.from_iterable(pages(-(-YEAR_BARS // PAGE), PAGE)))[:YEAR_BARS]
    asked: list[tuple[float, int]] = []

    async def answer(request: web.Request) -> web.Response:
        since, before = int(request.query["since"]), int(request.query["before"])
        asked.append((time.monotonic(), since))
        await asyncio.sleep(_LATENCY_S)
        first = max(0, -((FIRST_MS - since) // MINUTE_MS))
        last = max(0, min(first + PAGE, -((FIRST_MS - before) // MINUTE_MS)))
        return web.Response(body=orjson.dumps(bars[first:last]), content_type="application/json")

    async def tell(request: web.Request) -> web.Response:
        told = orjson.dumps(asked)
        asked.clear()
        return web.Response(body=told, content_type="application/json")

    app = web.Application()
    app.add_routes([web.get("/bars", answer), web.get("/asked", tell)])
    return app


if __name__ == "__main__":
    listening = socket.create_server(("127.0.0.1", 0), backlog=1024)
    print(f"http://127.0.0.1:{listening.getsockname()[1]}", flush=True)
    web.run_app(application(), sock=listening, access_log=None, print=None)
