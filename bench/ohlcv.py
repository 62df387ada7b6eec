"""Answers of 1,000 bars over HTTP, in requests a second.

Warm: the same closed bars again and again, against a bare handler that returns those very bytes.
Cold: stored bars, each time a window that shares no bar with those before, so that no memory of
answers or bars helps, against a bare handler over the same bars in a table of rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing
from functools import partial
from itertools import count, repeat
from pathlib import Path

from bench.bare import connected, upsert
from bench.load import get, requests_per_second
from bench.process import Server, quiet
from bench.report import Row, alternate, faster
from bench.series import FIRST_MS, MINUTE_MS, build, pages

_ASKED = 1_000


def rows(scratch: Path, quick: bool) -> Iterator[Row]:
    database, bare, answer = (scratch / name for name in ("marketd.db", "bare.db", "answer"))
    windows, seconds, rounds = (2_000, 0.4, 3) if quick else (7_000, 0.8, 7)
    build(database, series=1, bars=windows * _ASKED)
    with closing(connected(bare)) as connection:
        for page in pages(windows, _ASKED):
            upsert(connection, page)
    url = f"sqlite:///{database}"
    with ExitStack() as stack:
        marketd = stack.enter_context(Server("marketd", "serve", **quiet(url)))
        answer.write_bytes(get(marketd, _path(FIRST_MS)))
        ready = stack.enter_context(Server("bench.peers", "ready", answer))
        sqlite = stack.enter_context(Server("bench.peers", "sqlite", bare))
        ask = partial(requests_per_second, seconds=seconds)
        same = repeat(_path(FIRST_MS))
        ours, theirs = _windows(windows), _windows(windows)
        for server in (marketd, ready, sqlite):
            ask(server, same)
        warm = alternate(lambda: ask(marketd, same), lambda: ask(ready, same), rounds)
        yield faster("ohlcv, 1,000 closed bars, warm", "aiohttp, ready bytes", warm, "req/s", 0.6)
        cold = alternate(lambda: ask(marketd, ours), lambda: ask(sqlite, theirs), rounds)
        yield faster("ohlcv, 1,000 bars, cold", "aiohttp + sqlite3 + orjson", cold, "req/s", 1.0)


def _windows(number: int) -> Iterator[str]:
    """All windows of the stored bars, here and there, each once; then all again."""
    # A prime step that `number` is no multiple of meets every window.
    return (_path(FIRST_MS + i * 7_919 % number * _ASKED * MINUTE_MS) for i in count())


def _path(since_ms: int) -> str:
    series = "market=crypto&provider=sim&symbol=BTC/USD&timeframe=1m"
    return f"/api/v1/ohlcv?{series}&since={since_ms}&limit={_ASKED}"
