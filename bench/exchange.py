"""`python -m bench.exchange REQUESTS`: a local exchange with a year of minutes.

`GET /bars?since=&before=&sent=` answers at most 1,000 rows after 20 ms. REQUESTS is how many a second it
allows, 0 for any number: it keeps that as a bucket that refills, and whoever finds it empty gets a 429.
`GET /asked` answers when each request was sent, when it came, from where on it asked, and how many were
refused.
"""

from __future__ import annotations

import asyncio
import socket
import sys
import time
from itertools import chain

import orjson
from aiohttp import web

from bench.series import FIRST_MS, MINUTE_MS, pages

PAGE = 1_000
YEAR_BARS = 525_600
END_MS = FIRST_MS + YEAR_BARS * MINUTE_MS
# How many requests may come at once: more than the plugin declares, for what was sent evenly may travel
# unevenly. See domain.rate_limit.
BUCKET = 10
_LATENCY_S = 0.02


class Bucket:
    """What an exchange lets come: `per_s` a second, and BUCKET at once where nobody came before."""

    def __init__(self, per_s: int) -> None:
        self.refused = 0
        self._per_s = per_s
        self._left = float(BUCKET)
        self._at_s = time.monotonic()

    def lets(self, now_s: float) -> bool:
        """Whether one more may come now."""
        if not self._per_s:
            return True
        self._left = min(BUCKET, self._left + (now_s - self._at_s) * self._per_s)
        self._at_s = now_s
        if self._left < 1:
            self.refused += 1
            return False
        self._left -= 1
        return True


def application(per_s: int) -> web.Application:
    """The exchange; it keeps a list of what it was asked."""
    bars = list(chain.from_iterable(pages(-(-YEAR_BARS // PAGE), PAGE)))[:YEAR_BARS]
    asked: list[tuple[float, float, int]] = []
    bucket = Bucket(per_s)

    async def answer(request: web.Request) -> web.Response:
        since, before = int(request.query["since"]), int(request.query["before"])
        now_s = time.monotonic()
        asked.append((float(request.query["sent"]), now_s, since))
        if not bucket.lets(now_s):
            raise web.HTTPTooManyRequests
        await asyncio.sleep(_LATENCY_S)
        first = max(0, -((FIRST_MS - since) // MINUTE_MS))
        last = max(0, min(first + PAGE, -((FIRST_MS - before) // MINUTE_MS)))
        return web.Response(body=orjson.dumps(bars[first:last]), content_type="application/json")

    async def tell(request: web.Request) -> web.Response:
        told = orjson.dumps({"asked": asked, "refused": bucket.refused})
        return web.Response(body=told, content_type="application/json")

    app = web.Application()
    app.add_routes([web.get("/bars", answer), web.get("/asked", tell)])
    return app


if __name__ == "__main__":
    listening = socket.create_server(("127.0.0.1", 0), backlog=1024)
    print(f"http://127.0.0.1:{listening.getsockname()[1]}", flush=True)
    web.run_app(application(int(sys.argv[1])), sock=listening, access_log=None, print=None)
