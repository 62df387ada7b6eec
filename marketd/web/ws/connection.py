"""One client's socket: a reader that obeys, an outbox that writes, a knife for who cannot keep up."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Mapping
from functools import partial
from typing import Any, NamedTuple, Protocol

from aiohttp import WSMsgType, web

from marketd.config import StreamConfig
from marketd.domain.errors import Conflict, InvalidInput, LimitExceeded, MarketdError
from marketd.domain.instrument import Instrument, Series, TickSeries
from marketd.domain.tickframe import Tickframe
from marketd.domain.timerange import MAX_MS, MIN_MS
from marketd.market.service import MarketService, SeriesName
from marketd.metrics import Metrics
from marketd.streaming.broadcast import Subscription
from marketd.streaming.messages import Format, Message, StreamName, names
from marketd.streaming.outbox import Outbox, Postman
from marketd.streaming.ring import Cursor
from marketd.streaming.service import SubscriptionService
from marketd.streaming.stream import BarSubscription
from marketd.streaming.tape_stream import TapeSubscription
from marketd.streaming.tapes import TapeService
from marketd.streaming.tick_bar_stream import TickBarSubscription
from marketd.streaming.tick_bars import TickBarService
from marketd.supervisor import cancel_all, raise_if_cancelled
from marketd.web.ws.commands import decode, validated
from marketd.web.ws.limits import MessageRate
from marketd.web.ws.turns import Turns

log = logging.getLogger(__name__)

CLOSE_TOO_SLOW = 4008
_PARTING_S = 2.0


class _Followed(NamedTuple):
    leave: Callable[[], None]
    catching_up: asyncio.Task[None]


class _Service(Protocol):
    """Whoever has streams of one kind, each with its own feeds and subscriptions."""

    def check_room(self, streams: Any) -> None: ...
    def subscribe(self, feed: Any, subscription: Any, resume: Cursor | None) -> Any: ...
    def unsubscribe(self, feed: Any, subscription: Any) -> None: ...
    async def catch_up(self, feed: Any, subscription: Any, since: int, joined: Any) -> bool: ...
    async def resume(self, feed: Any, subscription: Any, cursor: Cursor, joined: Any) -> bool: ...


class Connection:
    """A connected client. `run` returns when it has gone, however it went."""

    def __init__(
        self,
        socket: web.WebSocketResponse,
        how: Format,
        *,
        request: web.Request,
        postman: Postman,
        market: MarketService,
        subscriptions: SubscriptionService,
        tapes: TapeService,
        tick_bars: TickBarService,
        limits: StreamConfig,
        metrics: Metrics,
    ) -> None:
        self._socket = socket
        self._format = how
        self._wire = _Wire(request)
        self._market = market
        self._subscriptions = subscriptions
        self._tapes = tapes
        self._tick_bars = tick_bars
        self._limits = limits
        self._metrics = metrics
        self._outbox = Outbox(
            how,
            self._wire,
            postman,
            most_bytes=limits.outbox,
            patience_s=limits.patience / 1000,
            overflow=self._cut,
            metrics=metrics,
        )
        self._rate = MessageRate(limits.max_rate)
        self._turns = Turns()
        self._cutting: asyncio.Task[None] | None = None
        self._followed: dict[StreamName, _Followed] = {}

    async def run(self) -> None:
        """Serves the client until it leaves or is cut."""
        self._metrics.stream_clients.inc()
        try:
            # Only this task may receive; others write and close.
            async for frame in self._socket:
                if frame.type in (WSMsgType.TEXT, WSMsgType.BINARY):
                    await self._take(frame.data)
                    # Frames may lie ready in hundreds: others are heard between any two of them.
                    await asyncio.sleep(0)
        finally:
            self._metrics.stream_clients.dec()
            self._outbox.close()
            followed = list(self._followed.values())
            self._followed.clear()
            for one in followed:
                one.leave()
            await cancel_all([*self._turns.under_way, *(one.catching_up for one in followed)])
            if self._cutting is not None:
                await self._cutting

    async def close(self, code: int, reason: str) -> None:
        """Says goodbye, after which nothing may be said; the client's `run` ends by it."""
        self._outbox.close()
        await self._socket.close(code=code, message=reason.encode())

    @property
    def queued(self) -> int:
        """How many bytes wait for the client to take them."""
        return self._outbox.waiting + self._wire.held()

    def too_big(self) -> None:
        """Says, ahead of the goodbye, why it comes: the client has sent too large a message."""
        most = self._limits.max_message
        self._refuse("", LimitExceeded.code, f"A message may have {most} bytes (max_message).")
        self._outbox.flush()
        self._outbox.close()

    async def _take(self, data: str | bytes) -> None:
        """Has the command in a frame obeyed, in its turn; what is none is refused."""
        raw: dict[str, Any] = {}
        command_id = ""
        try:
            try:
                raw = decode(data, self._format)
            finally:
                # Whatever it is, it counts; and if it has an id, what is answered has it, too.
                found = raw.get("id")
                command_id = found[:64] if isinstance(found, str) else ""
                self._rate.take()
            command = validated(raw, most_symbols=self._limits.max_symbols)
        except Exception as error:
            self._failed(command_id, error)
            return
        streams = [] if command["type"] == "ping" else _named(command)
        await self._turns.begin(streams, len(data), partial(self._obey, command))

    async def _obey(self, command: dict[str, Any]) -> None:
        try:
            match command["type"]:
                case "subscribe":
                    await self._subscribe(command)
                case "unsubscribe":
                    await self._unsubscribe(command)
                case "ping":
                    self._say({"type": "pong", "id": command["id"]})
        except Exception as error:
            self._failed(command["id"], error)

    def _failed(self, command_id: str, error: Exception) -> None:
        if isinstance(error, MarketdError):
            self._refuse(command_id, error.code, error.message)
        else:
            # A mistake of ours costs this command, not the socket and its streams.
            log.error("command failed id=%r", command_id, exc_info=error)
            sentence = "marketd made a mistake; its log has the details."
            self._refuse(command_id, MarketdError.code, sentence)

    def _refuse(self, command_id: str, code: str, message: str) -> None:
        self._say({"type": "error", "id": command_id, "code": code, "message": message})

    async def _subscribe(self, command: dict[str, Any]) -> None:
        # All of the streams that a command names, or an error.
        service, streams = await self._wanted(command)
        raise_if_cancelled()
        since, resume = self._admitted(command, streams)
        service.check_room(streams)
        joins = []
        told = []
        for stream, feed in streams.items():
            subscription = self._subscription(stream, since, resume)
            joined = service.subscribe(feed, subscription, resume)
            joins.append((stream, feed, subscription, joined))
            told.append({"channel": "bars"} | names(stream) | {"cursor": joined.cursor.token()})
        self._say({"type": "subscribed", "id": command["id"], "streams": told})
        for stream, feed, subscription, joined in joins:
            joining = self._join(
                service, stream, feed, subscription, joined, since, resume, command["id"]
            )
            leave = partial(service.unsubscribe, feed, subscription)
            self._followed[stream] = _Followed(leave, asyncio.create_task(joining))

    def _subscription(
        self, stream: StreamName, since: int | None, resume: Cursor | None
    ) -> Subscription:
        match stream:
            case Instrument():
                return TapeSubscription(stream, self._outbox)
            case TickSeries():
                # Which bars a client that comes back has had nobody knows.
                since_ms = MIN_MS if resume else MAX_MS if since is None else since
                return TickBarSubscription(stream, self._outbox, since_ms)
            case Series():
                return BarSubscription(stream, self._outbox)

    async def _wanted(self, command: dict[str, Any]) -> tuple[_Service, Mapping[StreamName, Any]]:
        """The streams that a command names, with the feed behind each, and who has them."""
        instruments = _instruments(command)
        if command["channel"] == "ticks":
            return self._tapes, {one: await self._market.tick_feed(one) for one in instruments}
        frame = command["timeframe"]
        if isinstance(frame, Tickframe):
            return self._tick_bars, {
                TickSeries(one, frame): await self._market.tick_feed(one) for one in instruments
            }
        named = [SeriesName(one, frame, command["params"]) for one in instruments]
        return self._subscriptions, {name.series(): await self._market.feed(name) for name in named}

    async def _join(
        self,
        service: _Service,
        stream: StreamName,
        feed: Any,
        subscription: Subscription,
        joined: Any,
        since: int | None,
        resume: Cursor | None,
        command_id: str,
    ) -> None:
        """History up to what live tells, or what was missed since a cursor, then live."""
        try:
            if since is not None:
                await service.catch_up(feed, subscription, since, joined)
            if resume is not None:
                recovered = await service.resume(feed, subscription, resume, joined)
                answer = {"type": "resumed", "id": command_id, "recovered": recovered}
                self._say(answer | names(stream))
            subscription.go_live()
        except Exception as error:
            # Who is not told would wait for what never comes. It may just have been left, too.
            followed = self._followed.pop(stream, None)
            if followed is not None:
                followed.leave()
            self._failed(command_id, error)

    def _admitted(
        self, command: dict[str, Any], streams: Collection[StreamName]
    ) -> tuple[int | None, Cursor | None]:
        """From where a client that may have these streams wants them: a time, a cursor, or neither."""
        taken = next((stream for stream in streams if stream in self._followed), None)
        if isinstance(taken, Instrument):
            raise Conflict(f"This client follows the trades of {taken.symbol} already.")
        if taken is not None:
            raise Conflict(
                f"This client follows {taken.instrument.symbol} at {taken.timeframe} already."
            )
        most = self._limits.max_subscriptions
        if len(streams) + len(self._followed) > most:
            raise LimitExceeded(f"A client may follow {most} streams (max_subscriptions).")
        since: int | None = command.get("since")
        if "resume" not in command:
            return since, None
        if since is not None or len(streams) != 1:
            raise InvalidInput("resume takes one symbol, and no since beside it.", field="resume")
        cursor = Cursor.parse(command["resume"], field="resume")
        if not cursor.is_of(*streams):
            raise InvalidInput("resume is a cursor of another stream.", field="resume")
        return None, cursor

    async def _unsubscribe(self, command: dict[str, Any]) -> None:
        ended = [stream for stream in _named(command) if stream in self._followed]
        for stream in ended:
            one = self._followed.pop(stream)
            one.leave()
            await cancel_all({one.catching_up})
        self._say(
            {
                "type": "unsubscribed",
                "id": command["id"],
                "streams": [{"channel": "bars"} | names(stream) for stream in ended],
            }
        )

    def _say(self, body: dict[str, Any]) -> None:
        self._outbox.put(Message(body))

    def _cut(self) -> None:
        self._metrics.stream_cut.inc()
        self._cutting = asyncio.create_task(self._part())

    async def _part(self) -> None:
        message = Message(
            {
                "type": "error",
                "id": "",
                "code": "slow_consumer",
                "message": "This client does not read as fast as news comes; it was cut.",
            }
        )
        self._wire.write(message.frame(self._format))
        try:
            async with asyncio.timeout(_PARTING_S):
                await self._wire.drain()
                await self.close(CLOSE_TOO_SLOW, "too slow")
        except (TimeoutError, ConnectionError):
            # It does not even take its goodbye: what waits for it in the buffers is given up.
            self._wire.abort()


class _Wire:
    """The connection below the socket: ready frames go straight to it.

    aiohttp writes what it has to say of its own (pings, the close) to the same transport in whole
    frames, so that nothing comes between the bytes of one.
    """

    __slots__ = ("_most_bytes", "_transport", "_writer")

    def __init__(self, request: web.Request) -> None:
        assert request.transport is not None  # noqa: S101 - the handshake has just passed over it
        self._transport = request.transport
        self._writer = request.writer
        _, self._most_bytes = self._transport.get_write_buffer_limits()

    def write(self, data: bytes) -> bool:
        transport = self._transport
        if not transport.is_closing():
            transport.write(data)
        return transport.get_write_buffer_size() <= self._most_bytes

    def held(self) -> int:
        return self._transport.get_write_buffer_size()

    async def drain(self) -> None:
        # aiohttp has one future for all who wait: whoever is cancelled would cancel it for everybody.
        await asyncio.shield(asyncio.ensure_future(self._writer.drain()))

    def abort(self) -> None:
        self._transport.abort()


def _instruments(command: dict[str, Any]) -> list[Instrument]:
    return [Instrument(command["market"], command["provider"], symbol) for symbol in command["symbols"]]


def _named(command: dict[str, Any]) -> list[StreamName]:
    """The streams in a command, one for each symbol."""
    instruments = _instruments(command)
    if command["channel"] == "ticks":
        return [*instruments]
    frame = command["timeframe"]
    if isinstance(frame, Tickframe):
        return [TickSeries(one, frame) for one in instruments]
    return [SeriesName(one, frame, command["params"]).series() for one in instruments]
