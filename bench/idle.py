"""What marketd costs while nobody asks: its start, its memory, and that of a silent client.

`marketd serve` is started as a user starts it, with the simulated exchange. Ready is the first answer
over HTTP, from the start of the process. Memory is what the process holds once that provider is open. A
WebSocket client follows one series and says nothing; the first hundred are not counted, since with
them comes what all have in common. As many as the default settings let in, 10,000, come from ten of the
machine's own addresses, out of a process of their own.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from statistics import median

import orjson

from bench.crowd import Crowd
from bench.load import Audience, get
from bench.process import Server, most_files, quiet
from bench.report import Row, within

_EARLIER, _CLIENTS, _MANY = 100, 1_000, 10_000
# What a process has open beside the sockets of clients.
_OTHER_FILES = 100
_SUBSCRIBE = orjson.dumps(
    {
        "type": "subscribe",
        "channel": "bars",
        "market": "crypto",
        "provider": "sim",
        "symbols": ["BTC/USD"],
        "timeframe": "1d",
    }
)


def rows(scratch: Path, quick: bool) -> Iterator[Row]:
    ready_s: list[float] = []
    idle_bytes: list[int] = []
    client_bytes: list[float] = []
    for number in range(3 if quick else 5):
        started_s = time.perf_counter()
        url = f"sqlite:///{scratch / f'{number}.db'}"
        with Server("marketd", "serve", **quiet(url)) as marketd:
            get(marketd, "/readyz")
            ready_s.append(time.perf_counter() - started_s)
            get(marketd, "/api/v1/symbols?market=crypto&provider=sim")
            idle_bytes.append(marketd.resident_bytes())
            with closing(Audience(marketd, _EARLIER, _SUBSCRIBE)):
                before = marketd.resident_bytes()
                with closing(Audience(marketd, _CLIENTS, _SUBSCRIBE)):
                    client_bytes.append((marketd.resident_bytes() - before) / _CLIENTS)
    yield within("idle, ready after", median(ready_s), 1.5, "s")
    yield within("idle, memory", median(idle_bytes) / 1e6, 90, "MB")
    yield within("idle, memory of a WebSocket client", median(client_bytes) / 1e3, 25, "KB")
    yield _of_many(scratch / "many.db")


def _of_many(database: Path) -> Row:
    work = f"idle, memory of each of {_MANY:,}"
    if most_files() < _MANY + _OTHER_FILES:
        needed = f"this takes {_MANY + _OTHER_FILES:,} open files"
        return Row(work, "not measured", needed, f"{most_files():,}", "", "", None)
    # The crowd does not answer pings.
    environment = quiet(f"sqlite:///{database}") | {"MARKETD_STREAM__HEARTBEAT": "1h"}
    with Server("marketd", "serve", **environment) as marketd, Crowd(marketd) as crowd:
        get(marketd, "/api/v1/symbols?market=crypto&provider=sim")
        before = marketd.resident_bytes()
        crowd.join(_MANY, _SUBSCRIBE, addresses=10)
        return within(work, (marketd.resident_bytes() - before) / _MANY / 1e3, 25, "KB")
