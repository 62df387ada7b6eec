"""One client's socket: a reader that obeys, a writer that drains, and a knife for who cannot keep up."""

from __future__ import annotations

import asyncio
from typing import Any, NamedTuple

from aiohttp import WSMsgType, web

from marketd.config import StreamConfig
from marketd.domain.errors import Conflict, InvalidInput, LimitExceeded, MarketdError
from marketd.domain.instrument import Instrument, Series
from marketd.domain.token import unpack_time
from marketd.market.service import MarketService, SeriesName
from marketd.metrics import Metrics
from marketd.plugins.feed import Feed
from marketd.streaming.messages import Format, Message, cursor, names
from marketd.streaming.outbox import Outbox
from marketd.streaming.service import SubscriptionService
from marketd.streaming.subscription import Subscription
from marketd.supervisor import cancel_all
from marketd.web.ws.commands import decode, validated

CLOSE_TOO_SLOW = 4008
_PARTING_S = 5.0


class _Followed(NamedTuple):
    feed: Feed
    subscription: Subscription
    catching_up: asyncio.Task[None]


class Connection:
    """A connected client. `run` returns when it has gone, however it went."""

    def __init__(
        self,
        socket: web.WebSocketResponse,
        how: Format,
        *,
        transport: asyncio.Transport | None,
        market: MarketService,
        subscriptions: SubscriptionService,
        limits: StreamConfig,
        metrics: Metrics,
    ) -> None:
        self._socket = socket
        self._format = how
        self._transport = transport
        self._market = market
        self._subscriptions = subscriptions
        self._limits = limits
        self._metrics = metrics
        self._outbox = Outbox(how, most_bytes=limits.outbox, metrics=metrics)
        self._followed: dict[Series, _Followed] = {}

    async def run(self) -> None:
        """Serves the client until it leaves or is cut."""
        self._metrics.stream_clients.inc()
        writer = asyncio.create_task(self._write())
        knife = asyncio.create_task(self._cut_when_slow(writer))
        try:
            # Only this task may receive; the others write and close.
            async for frame in self._socket:
                if frame.type in (WSMsgType.TEXT, WSMsgType.BINARY):
                    await self._obey(frame.data)
        finally:
            self._metrics.stream_clients.dec()
            followed = list(self._followed.values())
            self._followed.clear()
            for one in followed:
                self._subscriptions.unsubscribe(one.feed, one.subscription)
            await cancel_all({writer, knife, *(one.catching_up for one in followed)})

    async def close(self, code: int, reason: str) -> None:
        """Says goodbye; the client's `run` ends by it."""
        await self._socket.close(code=code, message=reason.encode())

    async def _obey(self, data: str | bytes) -> None:
        command_id = ""
        try:
            raw = decode(data, self._format)
            found = raw.get("id")
            command_id = found[:64] if isinstance(found, str) else ""
            command = validated(raw, most_symbols=self._limits.max_symbols)
            match command["type"]:
                case "subscribe":
                    await self._subscribe(command)
                case "unsubscribe":
                    await self._unsubscribe(command)
                case "ping":
                    self._say({"type": "pong", "id": command_id})
        except MarketdError as error:
            self._say({"type": "error", "id": command_id, "code": error.code, "message": error.message})

    async def _subscribe(self, command: dict[str, Any]) -> None:
        # All of the streams that a command names, with the base series behind each, or an error.
        streams = {name.series(): await self._market.feed(name) for name in _named(command)}
        new = len(streams) + len(self._followed)
        if new > self._limits.max_subscriptions:
            most = self._limits.max_subscriptions
            raise LimitExceeded(f"A client may follow {most} streams (max_subscriptions).")
        taken = next((series for series in streams if series in self._followed), None)
        if taken is not None:
            raise Conflict(
                f"This client follows {taken.instrument.symbol} at {taken.timeframe} already."
            )
        since: int | None = command.get("since")
        resumes = "resume" in command
        if resumes:
            if since is not None or len(streams) != 1:
                raise InvalidInput("resume takes one symbol, and no since beside it.", field="resume")
            since = unpack_time(command["resume"], "cursor", field="resume")
        joins = []
        told = []
        for series, feed in streams.items():
            subscription = Subscription(series, self._outbox)
            live_ms = self._subscriptions.subscribe(feed, subscription)
            joins.append((feed, subscription, live_ms))
            told.append(names(series) | {"channel": "bars", "cursor": cursor(live_ms)})
        self._say({"type": "subscribed", "id": command["id"], "streams": told})
        resume_id = command["id"] if resumes else None
        for feed, subscription, live_ms in joins:
            joining = self._join(feed, subscription, since, live_ms, resume_id)
            one = _Followed(feed, subscription, asyncio.create_task(joining))
            self._followed[subscription.series] = one

    async def _join(
        self,
        feed: Feed,
        subscription: Subscription,
        since: int | None,
        live_ms: int,
        resume_id: str | None,
    ) -> None:
        """History up to where live is whole, then live."""
        if since is not None:
            complete = await self._subscriptions.catch_up(
                feed, subscription, since=since, before=live_ms
            )
            if resume_id is not None:
                answer = {"type": "resumed", "id": resume_id, "recovered": complete}
                self._say(answer | names(subscription.series))
        subscription.go_live()

    async def _unsubscribe(self, command: dict[str, Any]) -> None:
        ended = [name.series() for name in _named(command) if name.series() in self._followed]
        for series in ended:
            one = self._followed.pop(series)
            self._subscriptions.unsubscribe(one.feed, one.subscription)
            await cancel_all({one.catching_up})
        self._say(
            {
                "type": "unsubscribed",
                "id": command["id"],
                "streams": [names(series) | {"channel": "bars"} for series in ended],
            }
        )

    def _say(self, body: dict[str, Any]) -> None:
        self._outbox.put(Message(body))

    async def _write(self) -> None:
        opcode = WSMsgType.TEXT if self._format is Format.JSON else WSMsgType.BINARY
        try:
            while True:
                frames = await self._outbox.take()
                for frame in frames:
                    await self._socket.send_frame(frame, opcode)
                self._metrics.stream_messages.inc(len(frames))
        except ConnectionError:
            # The client has gone; the reader sees it too and ends the connection.
            return

    async def _cut_when_slow(self, writer: asyncio.Task[None]) -> None:
        await self._outbox.overflowed.wait()
        self._metrics.stream_cut.inc()
        await cancel_all({writer})
        message = Message(
            {
                "type": "error",
                "id": "",
                "code": "slow_consumer",
                "message": "This client does not read as fast as bars come; it was cut.",
            }
        )
        opcode = WSMsgType.TEXT if self._format is Format.JSON else WSMsgType.BINARY
        try:
            async with asyncio.timeout(_PARTING_S):
                await self._socket.send_frame(message.encoded(self._format), opcode)
                await self.close(CLOSE_TOO_SLOW, "too slow")
        except (TimeoutError, ConnectionError):
            # It does not even take its goodbye: what waits for it in the buffers is given up.
            if self._transport is not None:
                self._transport.abort()


def _named(command: dict[str, Any]) -> list[SeriesName]:
    """The streams of a command, one for each symbol."""
    return [
        SeriesName(
            Instrument(command["market"], command["provider"], symbol),
            command["timeframe"],
            command["params"],
        )
        for symbol in command["symbols"]
    ]
