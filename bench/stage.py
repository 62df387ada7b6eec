"""`python -m bench.stage DATABASE`: marketd with a broadcast that is fed by hand.

Clients come in by the real endpoint and subscribe as ever; what they are told enters where a series'
worker would publish it. For each line "<bursts> <messages a burst>" on standard input that many closed
bars are published, the next burst once the messages of the last one have all been written.
"""

from __future__ import annotations

import asyncio
import sys

import orjson
from aiohttp import web

from marketd.config import Config, ProviderConfig, ServerConfig, StorageConfig, StreamConfig
from marketd.config.settings import Millis
from marketd.daemon import Daemon
from marketd.domain.instrument import Instrument, Series
from marketd.domain.timeframe import Timeframe
from marketd.encoding import to_json
from marketd.metrics import Metrics
from marketd.streaming.events import BarEvent
from marketd.streaming.messages import event_message
from marketd.streaming.ring import Cursor
from marketd.web.keys import METRICS, SUBSCRIPTIONS

# On a Saturday the exchange says nothing of its own.
_SATURDAY = "2024-01-06T12:00:00Z"
_SERIES = Series(Instrument("us_equity", "sim", "SPY"), Timeframe.parse("1m"))
# Messages count upwards in their cursors: from here on all are of one length.
_FIRST = 100_000
_EVENT = BarEvent((1_704_500_000_000, 467.92, 468.11, 467.85, 468.02, 83_120.0), closed=True)

SUBSCRIBE = orjson.dumps(
    {
        "type": "subscribe",
        "id": "1",
        "channel": "bars",
        "market": "us_equity",
        "provider": "sim",
        "symbols": ["SPY"],
        "timeframe": "1m",
    }
)


def message() -> bytes:
    """The payload of what a client is told each time."""
    cursor = Cursor(_EVENT.bar[0], 12 * "0", _FIRST).token()
    return to_json(event_message(_SERIES, _EVENT, cursor).body)


class Stage(Daemon):
    """A daemon that keeps its application in reach."""

    app: web.Application

    async def _listen(self, app: web.Application) -> None:
        self.app = app
        await super()._listen(app)


async def main(database: str) -> None:
    daemon = Stage(
        Config(
            server=ServerConfig(port=0),
            storage=StorageConfig(f"sqlite:///{database}"),
            # The audience does not answer pings.
            stream=StreamConfig(heartbeat=Millis(3_600_000)),
            providers={"sim": ProviderConfig("sim", "sim", {"start": _SATURDAY})},
        )
    )
    await daemon.start()
    print(daemon.url, flush=True)
    subscriptions, metrics = daemon.app[SUBSCRIPTIONS], daemon.app[METRICS]
    while line := await asyncio.to_thread(sys.stdin.readline):
        bursts, size = map(int, line.split())
        stream = subscriptions._upstreams[_SERIES].streams[_SERIES]
        stream.ring._seq = max(stream.ring._seq, _FIRST)
        clients = len(stream.channel)
        for _ in range(bursts):
            written = _written(metrics) + clients * size
            for _ in range(size):
                stream.take(_EVENT)
            while _written(metrics) < written:  # noqa: ASYNC110 - the outboxes write meanwhile
                await asyncio.sleep(0)
    await daemon.stop()


def _written(metrics: Metrics) -> float:
    """How many messages have been written to clients so far."""
    value: float = metrics.stream_messages._value.get()
    return value


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
