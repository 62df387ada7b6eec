"""A client of the daemon, for notebooks, bots and the command line.

    async with MarketdClient() as marketd:
        page = await marketd.ohlcv("crypto", "sim", "BTC/USD", "1h", limit=24)
        for t_ms, open_, high, low, close, volume in page.bars:
            print(t_ms, close)

        async for event in marketd.stream("crypto", "sim", ["BTC/USD"], "1m"):
            print(event)

Bars and trades are the plain tuples of `marketd.domain.bar`. A time is epoch milliseconds,
RFC 3339 text such as `2024-03-05T14:30:00Z`, or a datetime with a time zone.
"""

from marketd.client.answers import (
    Backfill,
    Bars,
    BarUpdate,
    Gap,
    ProviderInfo,
    Refreshed,
    Revised,
    Snapshot,
    Status,
    StreamEvent,
    Ticks,
    TickSnapshot,
    TickStreamEvent,
    TickUpdate,
    Time,
)
from marketd.client.asking import DEFAULT_URL
from marketd.client.client import MarketdClient
from marketd.client.errors import MarketdClientError

__all__ = [
    "DEFAULT_URL",
    "Backfill",
    "BarUpdate",
    "Bars",
    "Gap",
    "MarketdClient",
    "MarketdClientError",
    "ProviderInfo",
    "Refreshed",
    "Revised",
    "Snapshot",
    "Status",
    "StreamEvent",
    "TickSnapshot",
    "TickStreamEvent",
    "TickUpdate",
    "Ticks",
    "Time",
]
