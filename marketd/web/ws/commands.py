"""What a client may say on the stream, validated."""

from __future__ import annotations

from typing import Any

import orjson
import ormsgpack
from marshmallow import EXCLUDE, Schema, ValidationError, fields, validate, validates_schema

from marketd.domain.errors import InvalidInput, LimitExceeded
from marketd.domain.tickframe import Tickframe
from marketd.streaming.messages import Format
from marketd.web.schemas import (
    AnyFrameText,
    Input,
    Text,
    Time,
    market_field,
    provider_field,
    reasons,
)
from marketd.web.validation import refused

_CHANNEL = "has to be bars or ticks."
_SYMBOL = "holds something that is not text of 1 to 128 characters."
_MOST_KEYS = 50


class _Command(Input):
    """Every command may carry an `id`, which its answer repeats."""

    type = Text(64, required=True)
    id = Text(64, least=0, load_default="")


class _Streams(_Command):
    """Names streams: one for each symbol."""

    channel = fields.String(
        load_default="bars",
        validate=validate.OneOf(["bars", "ticks"], error=_CHANNEL),
        error_messages=reasons(_CHANNEL),
    )
    market = market_field(required=True)
    provider = provider_field(required=True)
    symbols = fields.List(
        fields.String(validate=validate.Length(1, 128, error=_SYMBOL), error_messages=reasons(_SYMBOL)),
        required=True,
        validate=validate.Length(1, error="has to name at least one symbol."),
        error_messages=reasons("has to be a list of symbols."),
    )
    timeframe = AnyFrameText()
    params = fields.Dict(
        fields.String(),
        fields.String(error_messages=reasons("holds something that is not text.")),
        load_default=dict,
        error_messages=reasons("has to be an object of text."),
    )

    @validates_schema
    def _of_one_channel(self, data: dict[str, Any], **_: Any) -> None:
        if data["channel"] == "bars":
            if "timeframe" not in data:
                raise ValidationError("is missing.", "timeframe")
            if data["params"] and isinstance(data["timeframe"], Tickframe):
                raise ValidationError("is for bars of time, not of trades.", "params")
            return
        for field in ("timeframe", "params"):
            if data.get(field):
                raise ValidationError("is for bars, not for ticks.", field)


class Subscribe(_Streams):
    """Live bars or trades, after those since a time, or since where a cursor stood."""

    since = Time("Bars or trades from this time on come first.")
    resume = Text(400)


class Unsubscribe(_Streams):
    """No more of these streams."""


class Ping(_Command):
    """Answered by a pong."""

    class Meta:
        unknown = EXCLUDE


_KINDS: dict[str, type[Schema]] = {"subscribe": Subscribe, "unsubscribe": Unsubscribe, "ping": Ping}


def decode(data: str | bytes, how: Format) -> dict[str, Any]:
    """The message in a frame; InvalidInput if there is none."""
    wanted = str if how is Format.JSON else bytes
    if not isinstance(data, wanted):
        kind = "text" if how is Format.JSON else "binary"
        raise InvalidInput(f"The subprotocol {how} takes {kind} frames.", field="")
    try:
        raw = orjson.loads(data) if isinstance(data, str) else ormsgpack.unpackb(data)
    except (orjson.JSONDecodeError, ormsgpack.MsgpackDecodeError):
        raise InvalidInput(f"This frame is not {how.name}.", field="") from None
    if not isinstance(raw, dict):
        raise InvalidInput("A message is an object with a type.", field="type")
    return raw


def validated(raw: dict[str, Any], *, most_symbols: int) -> dict[str, Any]:
    """The command that a message is; InvalidInput names the field at fault.

    LimitExceeded if it holds too much.
    """
    kind = raw.get("type")
    schema = _KINDS.get(kind) if isinstance(kind, str) else None
    if schema is None:
        raise InvalidInput(f"The type of a message is one of {', '.join(_KINDS)}.", field="type")
    # Counted before they are looked at: one client's message keeps nobody else waiting.
    symbols, params = raw.get("symbols"), raw.get("params")
    if isinstance(symbols, list) and len(symbols) > most_symbols:
        raise LimitExceeded(f"A message may name {most_symbols} symbols (max_symbols).")
    if len(raw) > _MOST_KEYS or (isinstance(params, dict) and len(params) > _MOST_KEYS):
        raise LimitExceeded(f"A message and its params may have {_MOST_KEYS} keys each.")
    try:
        command: dict[str, Any] = schema().load(raw)
    except ValidationError as error:
        raise refused(error.messages_dict) from None
    return command
