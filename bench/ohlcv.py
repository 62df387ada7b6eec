"""Answers of 1,000 bars over HTTP, in requests a second.

Warm: the same closed bars again and again, against a bare handler that returns those very bytes.
Cold: stored bars, each time a window that shares no bar with those before, so that no memory of
answers or bars helps, against a bare handler over the same bars in a table of rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing
from itertools import count, repeat
from pathlib import Path
from statistics import median

from bench.bare import connected, upsert
from bench.load import Pace, get
from bench.process import Server, quiet
from bench.report import Row, alternate, faster
from bench.series import FIRST_MS, MINUTE_MS, build, pages

_ASKED = 1_000


def rows(scratch: Path, quick: bool) -> Iterator[Row]:
    database, bare, answer = (scratch / name for name in ("marketd.db", "bare.db", "answer"))
    windows, seconds, rounds = (2_000, 0.3, 5) if quick else (7_000, 0.4, 15)
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
        same = repeat(_path(FIRST_MS))
        warm = Pace(marketd, same, seconds=seconds), Pace(ready, same, seconds=seconds)
        yield from _compared(
            "ohlcv, 1,000 closed bars, warm", "aiohttp, ready bytes", *warm, rounds, 0.6
        )
        cold = (
            Pace(marketd, _windows(windows), seconds=seconds),
            Pace(sqlite, _windows(windows), seconds=seconds),
        )
        yield from _compared("ohlcv, 1,000 bars, cold", "aiohttp + sqlite3 + orjson", *cold, rounds, 1.0)


def _compared(
    work: str, against: str, ours: Pace, peer: Pace, rounds: int, at_least: float
) -> Iterator[Row]:
    """Which of the two is faster, in turns, and what a request takes each: that tells a busy machine."""
    for pace in (ours, peer):
        pace.requests_per_second()  # it warms up
    versus = alternate(ours.requests_per_second, peer.requests_per_second, rounds)
    yield faster(work, against, versus, "req/s", at_least)
    mine, other = median(ours.core_us[1:]), median(peer.core_us[1:])
    yield Row(
        "  of a core, for a request",
        f"{mine:,.0f} us",
        against,
        f"{other:,.0f} us",
        f"{mine / other:.2f}x",
        "",
        None,
    )


def _windows(number: int) -> Iterator[str]:
    """All windows of the stored bars, here and there, each once; then all again."""
    # A prime step that `number` is no multiple of meets every window, and this one comes to neighbours
    # so late that nobody kept what they share.
    return (_path(FIRST_MS + i * 2_617 % number * _ASKED * MINUTE_MS) for i in count())


def _path(since_ms: int) -> str:
    series = "market=crypto&provider=sim&symbol=BTC/USD&timeframe=1m"
    return f"/api/v1/ohlcv?{series}&since={since_ms}&limit={_ASKED}"
