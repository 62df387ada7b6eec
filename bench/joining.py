"""1,000 clients that come back at once, each with a `since`: until the last has had all of its history.

They ask for one series from ten different times, up to 1,900 minutes ago: a snapshot for each. Against a
bare aiohttp handler that answers each client with a query and orjson. How often marketd reads bars for
that is counted by its own metric, whether they are in memory or not: once for each time is enough.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import orjson

from bench.bare import connected, upsert
from bench.crowd import Crowd
from bench.customer import DEEP, NO_EXCHANGE
from bench.load import get, metric
from bench.process import Server
from bench.report import Row, alternate, faster, within
from bench.series import MINUTE_MS, minute

_CLIENTS, _POSITIONS, _MINUTES = 1_000, 10, 1_900
_NAMES = {"market": "crypto", "provider": "customer", "timeframe": "1m"}


def rows(scratch: Path, quick: bool) -> Iterator[Row]:
    newest_ms = int(time.time() * 1000) // MINUTE_MS * MINUTE_MS
    since_ms = [newest_ms - (_MINUTES - number) * MINUTE_MS for number in range(_POSITIONS)]
    with closing(connected(scratch / "bare.db")) as connection:
        upsert(connection, [minute(t, t // MINUTE_MS) for t in range(since_ms[0], newest_ms, MINUTE_MS)])
    reads: list[float] = []
    with (
        Server("bench.customer", scratch / "marketd.db", *NO_EXCHANGE) as marketd,
        Server("bench.peers", "joins", scratch / "bare.db") as bare,
    ):
        # Stored by then, as it is for who comes back.
        get(marketd, _path(since_ms[0]))
        subscribe = {"type": "subscribe", **_NAMES, "symbols": [DEEP]}

        def ours() -> float:
            before = metric(marketd, "marketd_read_seconds_count")
            rate = _clients_per_second(marketd, [subscribe | {"since": since} for since in since_ms])
            reads.append(metric(marketd, "marketd_read_seconds_count") - before)
            return rate

        def peer() -> float:
            return _clients_per_second(bare, [{"since": since} for since in since_ms])

        versus = alternate(ours, peer, 2 if quick else 5)
    work = f"{_CLIENTS:,} clients join with `since`"
    yield faster(work, "aiohttp + sqlite3 + orjson", versus, "clients/s", 1.0)
    yield within("  until the last has its snapshot", _CLIENTS / versus.ours, 2, "s")
    # A bar that closes meanwhile makes a new position of each.
    yield within("  reads of history for that", max(reads), 2 * _POSITIONS + 1, "reads")


def _clients_per_second(server: Server, says: Sequence[dict[str, object]]) -> float:
    with Crowd(server) as crowd:
        crowd.join(_CLIENTS, None)
        return _CLIENTS / crowd.ask_for_history([orjson.dumps(say) for say in says])


def _path(since_ms: int) -> str:
    query = "&".join(f"{name}={value}" for name, value in _NAMES.items())
    return f"/api/v1/ohlcv?{query}&symbol={DEEP}&since={since_ms}&limit={_MINUTES}"
