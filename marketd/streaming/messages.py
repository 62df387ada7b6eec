"""Stream messages: made once, encoded once a format, shared by every client that is told."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum
from typing import Any

from marketd.domain.bar import Bar
from marketd.domain.coverage import Gap
from marketd.domain.instrument import Series
from marketd.domain.timeframe import Timeframe
from marketd.domain.token import pack
from marketd.encoding import to_json, to_msgpack
from marketd.streaming.events import BarEvent, Event, GapEvent, HealthEvent


class Format(StrEnum):
    """How a client reads messages; the values are the WebSocket subprotocols."""

    JSON = "marketd.json"
    MSGPACK = "marketd.msgpack"


_ENCODERS: Mapping[Format, Callable[[Any], bytes]] = {Format.JSON: to_json, Format.MSGPACK: to_msgpack}


class Message:
    """One message, encoded when a format is first asked for."""

    __slots__ = ("_encoded", "body")

    def __init__(self, body: Mapping[str, Any]) -> None:
        self.body = body
        self._encoded: dict[Format, bytes] = {}

    def encoded(self, how: Format) -> bytes:
        """The message as bytes of one WebSocket frame."""
        if how not in self._encoded:
            self._encoded[how] = _ENCODERS[how](self.body)
        return self._encoded[how]


def names(series: Series) -> dict[str, str]:
    """The fields that say which stream a message belongs to."""
    what = series.instrument
    return {
        "market": what.market,
        "provider": what.provider,
        "symbol": what.symbol,
        "timeframe": str(series.timeframe),
    }


def cursor(next_ms: int) -> str:
    """The cursor of a client that has had every closed bar that opens before `next_ms`."""
    return pack("cursor", str(next_ms))


def event_message(series: Series, event: Event) -> Message | None:
    """What clients are told of an event; nothing of mere progress."""
    if isinstance(event, BarEvent):
        return Message(
            {
                "type": "bar",
                **names(series),
                "bar": event.bar,
                "closed": event.closed,
                "rev": event.rev,
                "cursor": cursor(_after(event, series.timeframe)),
            }
        )
    if isinstance(event, GapEvent):
        return gap_message(series, event.gap)
    if isinstance(event, HealthEvent):
        return Message(
            {"type": "status", **names(series), "state": event.state, "message": event.message}
        )
    return None


def snapshot_message(series: Series, bars: Sequence[Bar], *, complete: bool, next_ms: int) -> Message:
    """History of a stream, up to `next_ms`."""
    return Message(
        {
            "type": "snapshot",
            **names(series),
            "bars": bars,
            "complete": complete,
            "cursor": cursor(next_ms),
        }
    )


def gap_message(series: Series, gap: Gap) -> Message:
    """A range for which a stream has no proof."""
    return Message(
        {
            "type": "gap",
            **names(series),
            "start": gap.start_ms,
            "end": gap.end_ms,
            "reason": gap.reason,
        }
    )


def _after(event: BarEvent, timeframe: Timeframe) -> int:
    return timeframe.end(event.bar[0]) if event.closed else event.bar[0]
