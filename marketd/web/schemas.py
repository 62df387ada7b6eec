"""What comes in, field by field: the validation of input. What goes out is in `answers`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, ClassVar

from marshmallow import (
    INCLUDE,
    Schema,
    ValidationError,
    fields,
    post_load,
    validate,
    validates_schema,
)

from marketd.domain.errors import InvalidInput
from marketd.domain.fill import Fill
from marketd.domain.instant import epoch_ms
from marketd.domain.tickframe import Tickframe
from marketd.domain.timeframe import Timeframe
from marketd.domain.timerange import MAX_MS, MIN_MS

DEFAULT_LIMIT, MOST = 500, 10_000
_WANTED_TIME = (
    "has to be epoch milliseconds, or RFC 3339 with an offset like 2024-01-31T14:30:00Z, "
    "from 1970 up to 2100."
)
_WANTED_TIMEFRAME = (
    "has to be a count and one of s, m, h, d, w, M (month) or y, like 1m, 4h or 1M, "
    "of ten years at the most."
)

_WANTED_FRAME = (
    f"{_WANTED_TIMEFRAME[:-1]}; or a count of trades and t, or a volume and v, like 100t or 2.5v."
)


class Input(Schema):
    """What a client sends. A reason follows the name of its field, and both make a sentence."""

    error_messages = {"unknown": "is not known here."}  # noqa: RUF012 - marshmallow's own declaration


def reasons(wanted: str) -> dict[str, Any]:
    """Why a field is refused, by marshmallow's kinds of faults: it is missing, or not what is wanted."""
    kinds = ("null", "invalid", "invalid_utf8", "too_large", "unknown")
    return dict.fromkeys(kinds, wanted) | {"required": "is missing."}


class Text(fields.String):
    """Text of `least` to `most` characters."""

    def __init__(self, most: int, *, least: int = 1, **options: Any) -> None:
        wanted = f"has to be text of {least} to {most} characters."
        length = validate.Length(least, most, error=wanted)
        super().__init__(validate=length, error_messages=reasons(wanted), **options)


class Limit(fields.Integer):
    """How many rows an answer may have at the most."""

    def __init__(self, meaning: str) -> None:
        wanted = f"has to be a whole number from 1 to {MOST}."
        super().__init__(
            load_default=DEFAULT_LIMIT,
            validate=validate.Range(1, MOST, error=wanted),
            error_messages=reasons(wanted),
            metadata={"description": meaning},
        )

    def _deserialize(
        self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any
    ) -> int:
        # int() would take "1_000" and " 7 ", too.
        if not (isinstance(value, str) and value.isascii() and value.isdecimal()):
            raise self.make_error("invalid")
        return super()._deserialize(value, attr, data, **kwargs)


class Time(fields.Field[int]):
    """A time in epoch milliseconds, or RFC 3339 text with an offset; between 1970 and 2100."""

    def __init__(self, meaning: str, **options: Any) -> None:
        super().__init__(
            error_messages=reasons(_WANTED_TIME),
            metadata={
                "description": f"{meaning} Epoch milliseconds or RFC 3339.",
                "anyOf": [
                    {"type": "integer", "minimum": MIN_MS, "maximum": MAX_MS - 1},
                    {"type": "string", "format": "date-time", "pattern": "^(19[7-9]|20[0-9])[0-9]-"},
                ],
            },
            **options,
        )

    def _deserialize(
        self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any
    ) -> int:
        if isinstance(value, float) and value.is_integer():
            value = int(value)  # JSON has one kind of number
        try:
            # RFC 3339 takes t and z, too; Python does not.
            return epoch_ms(value.upper() if isinstance(value, str) else value)
        except ValueError:
            raise self.make_error("invalid") from None


class _FrameText(fields.Field[Any]):
    """Text that one of `kinds` reads."""

    kinds: ClassVar[Sequence[type[Timeframe | Tickframe]]]
    wanted: ClassVar[str]
    shape: ClassVar[Mapping[str, Any]]

    def __init__(self, **options: Any) -> None:
        super().__init__(
            error_messages=reasons(self.wanted), metadata={"type": "string", **self.shape}, **options
        )

    def _deserialize(
        self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any
    ) -> Timeframe | Tickframe:
        for kind in self.kinds:
            with suppress(InvalidInput):
                return kind.parse(value if isinstance(value, str) else "")
        raise self.make_error("invalid")


class TimeframeText(_FrameText):
    """A timeframe such as 1m, 4h, 1d or 1M (a month)."""

    kinds = (Timeframe,)
    wanted = _WANTED_TIMEFRAME
    shape: ClassVar[Mapping[str, Any]] = {
        "description": "A count and one of s m h d w M y; 1M is a month. Ten years at the most.",
        "pattern": "^[1-9][0-9]{0,5}[smhdwMy]$",
        "examples": ["1m", "1h", "1d"],
    }


class AnyFrameText(_FrameText):
    """The same, or how many trades or how much volume a bar holds: 100t, 2.5v."""

    kinds = (Timeframe, Tickframe)
    wanted = _WANTED_FRAME
    shape: ClassVar[Mapping[str, Any]] = {
        "description": "A count and one of s m h d w M y; 1M is a month. Ten years at the most. "
        "Or what makes a bar, counted from the beginning of each UTC day: a number of trades and t, or "
        "a volume and v.",
        "pattern": "^([1-9][0-9]{0,5}[smhdwMy]|[1-9][0-9]{0,6}t|[0-9]{1,9}([.][0-9]{1,8})?v)$",
        "examples": ["1m", "1h", "1d", "100t", "2.5v"],
    }


def market_field(**options: Any) -> Text:
    return Text(64, metadata={"description": "e.g. crypto"}, **options)


def provider_field(**options: Any) -> Text:
    return Text(64, metadata={"description": "e.g. sim"}, **options)


def page_token_field() -> Text:
    return Text(
        400,
        metadata={"description": "next_page_token of the answer before, with the same question."},
    )


def symbol_field(**options: Any) -> Text:
    return Text(128, metadata={"description": "The provider's own spelling."}, **options)


class Ordered(Input):
    """Takes `since` and `before`, in this order."""

    @validates_schema
    def _in_order(self, data: dict[str, Any], **_: Any) -> None:
        since, before = data.get("since"), data.get("before")
        if since is not None and before is not None and since > before:
            raise ValidationError("must not be after before.", "since")


class SeriesQuery(Ordered):
    """A series; every key that is not declared is a parameter of the provider's own, in `params`."""

    class Meta:
        unknown = INCLUDE

    market = market_field(required=True)
    provider = provider_field(required=True)
    symbol = symbol_field(required=True)
    timeframe: _FrameText = TimeframeText(required=True)

    @post_load
    def _with_params(self, data: dict[str, Any], **_: Any) -> dict[str, Any]:
        params = {key: data.pop(key) for key in list(data) if key not in self.fields}
        return data | {"params": params}


class OhlcvQuery(SeriesQuery):
    timeframe = AnyFrameText(required=True)
    since = Time("The first bars that open at or after this time; without it, the last ones.")
    before = Time("Bars that open before this time; without it, up to now.")
    limit = Limit("The most bars of the answer.")
    page_token = page_token_field()
    fill = fields.Enum(
        Fill,
        by_value=True,
        error_messages=reasons("has to be null or prev."),
        metadata={
            "description": "Rows for intervals without a bar: null, or prev for the previous close. "
            "The answer lists them in `filled`."
        },
    )

    @validates_schema
    def _of_time(self, data: dict[str, Any], **_: Any) -> None:
        if isinstance(data.get("timeframe"), Tickframe):
            for key in data:
                if key == "fill" or key not in self.fields:
                    raise ValidationError("is for bars of time, not of trades.", key)


class TicksQuery(Ordered):
    market = market_field(required=True)
    provider = provider_field(required=True)
    symbol = symbol_field(required=True)
    since = Time("The first trades at or after this time; without it, the last ones.")
    before = Time("Trades before this time; without it, up to now.")
    limit = Limit("The most trades of the answer.")
    page_token = page_token_field()


class GapsQuery(SeriesQuery):
    since = Time("Where to look from; without it, as far back as history goes.")
    before = Time("Where to look to; without it, up to now.")


class Whether(fields.Boolean):
    """true or false, and nothing else that might stand for one."""

    def __init__(self, meaning: str) -> None:
        super().__init__(
            load_default=False,
            error_messages=reasons("has to be true or false."),
            metadata={"description": meaning},
        )

    def _deserialize(
        self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any
    ) -> bool:
        if not isinstance(value, bool):
            raise self.make_error("invalid")
        return value


class BackfillIn(Input):
    """The history of a series that is to be there."""

    market = market_field(required=True)
    provider = provider_field(required=True)
    symbol = Text(128, required=True, metadata={"description": "The provider's own spelling."})
    timeframe = TimeframeText(required=True)
    since = Time("Bars that open at or after this time.", required=True)
    before = Time("Bars that open before this time; without it, up to now.")
    params = fields.Dict(
        keys=fields.String(),
        values=Text(200, least=0),
        load_default=dict,
        error_messages=reasons("has to be an object of texts."),
        metadata={"description": "The provider's own parameters."},
    )
    repair = Whether("Fetch what is stored, too, and say how many bars were new or have changed.")

    @validates_schema
    def _in_order(self, data: dict[str, Any], **_: Any) -> None:
        since, before = data.get("since"), data.get("before")
        if since is not None and before is not None and since > before:
            raise ValidationError("must not be after before.", "since")


class ProvidersQuery(Input):
    market = market_field()


class SymbolsQuery(Input):
    market = market_field()
    provider = provider_field(required=True)
    query = Text(
        128,
        least=0,
        load_default="",
        metadata={"description": "A part of the symbol or its name, whatever the case."},
    )
    limit = Limit("The most symbols of the answer.")
    page_token = page_token_field()


class RefreshBody(Ordered):
    market = market_field()
    provider = provider_field()
    symbol = symbol_field()
    timeframe = TimeframeText()
    since = Time("Only what holds bars from this time on.")
    before = Time("Only what holds bars before this time.")


class NoQuery(Input):
    """No query at all: every key is unknown."""
