"""Stream messages: made once, framed once a format, shared by every client that is told."""

from __future__ import annotations

import struct
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from typing import Any, TypeAlias, TypeVar
from urllib.parse import parse_qsl

from marketd.domain.bar import Bar, Tick, open_time
from marketd.domain.coverage import Gap
from marketd.domain.instrument import Instrument, Series, TickSeries
from marketd.encoding import to_json, to_msgpack
from marketd.streaming.events import (
    BarEvent,
    GapEvent,
    HealthEvent,
    RevisedEvent,
    TapeNews,
    TickBarNews,
    TickEvent,
)

# What messages belong to: bars, or the trades of an instrument.
BarStream: TypeAlias = Series | TickSeries
StreamName: TypeAlias = BarStream | Instrument
S = TypeVar("S", bound=BarStream)


class Format(StrEnum):
    """How a client reads messages; the values are the WebSocket subprotocols."""

    JSON = "marketd.json"
    MSGPACK = "marketd.msgpack"


_ENCODERS: Mapping[Format, tuple[int, Callable[[Any], bytes]]] = {
    # The first byte of a whole frame of text, or of binary data (RFC 6455, section 5.2).
    Format.JSON: (0x81, to_json),
    Format.MSGPACK: (0x82, to_msgpack),
}


class Message:
    """One message, encoded when a format is first asked for; one that `lasts` must not be left out.

    `ticks` is what it says of trades, and `revised` what it says has become of bars, if it does.
    """

    __slots__ = ("_frames", "_parts", "body", "lasts", "revised", "ticks")

    def __init__(
        self,
        body: Mapping[str, Any],
        *,
        lasts: bool = True,
        ticks: TickEvent | None = None,
        revised: RevisedEvent | None = None,
    ) -> None:
        self.body = body
        self.lasts = lasts
        self.ticks = ticks
        self.revised = revised
        self._frames: dict[Format, bytes] = {}
        # What is told of it to clients that have no bars before some time, by the first bar of that.
        self._parts: dict[int, Message] = {}

    def frame(self, how: Format) -> bytes:
        """The message as one WebSocket frame, ready to be sent: what a server says is not masked."""
        frame = self._frames.get(how)
        if frame is None:
            first, encode = _ENCODERS[how]
            payload = encode(self.body)
            frame = self._frames[how] = _head(first, len(payload)) + payload
        return frame

    def since(self, since_ms: int) -> Message | None:
        """What of it is for a client that has no bars before `since_ms`, if anything is."""
        event = self.revised
        if event is None or event.start_ms >= since_ms:
            return self
        if event.end_ms <= since_ms:
            return None
        first = bisect_left(event.bars, since_ms, key=open_time)
        if not first:
            return self
        part = self._parts.get(first)
        if part is None:
            start_ms, bars = event.bars[first - 1][0] + 1, event.bars[first:]
            part = self._parts[first] = Message({**self.body, "start": start_ms, "bars": bars})
        return part


def _head(first: int, length: int) -> bytes:
    if length < 126:
        return struct.pack("!BB", first, length)
    if length < 1 << 16:
        return struct.pack("!BBH", first, 126, length)
    return struct.pack("!BBQ", first, 127, length)


def names(stream: StreamName) -> dict[str, Any]:
    """The fields that say which stream a message belongs to; `params` only where it has some."""
    what = stream if isinstance(stream, Instrument) else stream.instrument
    told: dict[str, Any] = {"market": what.market, "provider": what.provider, "symbol": what.symbol}
    if isinstance(stream, Instrument):
        return told | {"channel": "ticks"}
    told["timeframe"] = str(stream.timeframe)
    if isinstance(stream, Series) and stream.variant:
        told["params"] = dict(parse_qsl(stream.variant, keep_blank_values=True))
    return told


def event_message(series: BarStream, event: TickBarNews, cursor: str) -> Message:
    """What clients are told of an event, and the cursor of who has been told."""
    match event:
        case BarEvent():
            return Message(
                {
                    "type": "bar",
                    **names(series),
                    "bar": event.bar,
                    "closed": event.closed,
                    "rev": event.rev,
                    "cursor": cursor,
                },
                lasts=event.closed,
            )
        case RevisedEvent():
            return Message(
                {
                    "type": "revised",
                    **names(series),
                    "start": event.start_ms,
                    "end": event.end_ms,
                    "bars": event.bars,
                    "cursor": cursor,
                },
                revised=event,
            )
        case GapEvent():
            return gap_message(series, event.gap)
        case HealthEvent():
            return status_message(series, event)


def tape_message(instrument: Instrument, event: TapeNews, cursor: str) -> Message:
    """The same of trades."""
    match event:
        case TickEvent():
            body = {"type": "tick", **names(instrument), "ticks": event.ticks, "cursor": cursor}
            return Message(body, ticks=event)
        case GapEvent():
            return gap_message(instrument, event.gap)
        case HealthEvent():
            return status_message(instrument, event)


def snapshot_message(series: BarStream, bars: Sequence[Bar], *, complete: bool, cursor: str) -> Message:
    """History of a stream, and the cursor of who has been told it."""
    return Message(
        {
            "type": "snapshot",
            **names(series),
            "bars": bars,
            "complete": complete,
            "cursor": cursor,
        }
    )


def ticks_snapshot_message(
    instrument: Instrument, ticks: Sequence[Tick], *, complete: bool, cursor: str
) -> Message:
    """The same of trades."""
    return Message(
        {
            "type": "snapshot",
            **names(instrument),
            "ticks": ticks,
            "complete": complete,
            "cursor": cursor,
        }
    )


def status_message(stream: StreamName, event: HealthEvent) -> Message:
    """What has become of the feed behind a stream."""
    return Message({"type": "status", **names(stream), "state": event.state, "message": event.message})


def gap_message(stream: StreamName, gap: Gap) -> Message:
    """A range for which a stream has no proof."""
    return Message(
        {
            "type": "gap",
            **names(stream),
            "start": gap.start_ms,
            "end": gap.end_ms,
            "reason": gap.reason,
        }
    )
