"""What the configuration of a replay provider may say."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

from marshmallow import Schema, ValidationError, fields, post_load, validate, validates_schema

from marketd.domain.timeframe import Timeframe
from marketd.plugins import TimeField, TimeframeField

SUFFIXES = (".csv", ".csv.gz", ".parquet")


@dataclass(frozen=True, slots=True)
class RecordedFile:
    """One file of the folder, and the series whose bars it holds. `name` is the symbol's for people."""

    file: str
    market: str
    symbol: str
    timeframe: Timeframe
    name: str = ""


def _printable(text: str) -> None:
    if not text.isprintable():
        raise ValidationError("This has characters that cannot be printed.")


def _word(text: str) -> None:
    _printable(text)
    if not text.strip():
        raise ValidationError("This cannot be empty.")


def _inside(file: str) -> None:
    _word(file)
    path = PurePath(file)
    if path.is_absolute() or ".." in path.parts:
        raise ValidationError("A file lies inside the folder: no absolute path and no '..'.")
    if not file.endswith(SUFFIXES):
        raise ValidationError(f"A recording's name ends in one of {', '.join(SUFFIXES)}.")


class _FileSettings(Schema):
    file = fields.String(required=True, validate=_inside)
    market = fields.String(required=True, validate=_word)
    symbol = fields.String(required=True, validate=_word)
    timeframe = TimeframeField(required=True)
    name = fields.String(load_default="", validate=_printable)

    @post_load
    def _make(self, data: dict[str, Any], **_: Any) -> RecordedFile:
        return RecordedFile(**data)


class ReplaySettings(Schema):
    """The section `[providers.<name>]` of a provider with `plugin = "replay"`."""

    path = fields.String(
        required=True, validate=_word, metadata={"description": "The folder of the recordings."}
    )
    clock = fields.String(
        load_default="recorded",
        validate=validate.OneOf(("recorded", "present")),
        metadata={
            "description": "`recorded`: the series keep their own times; "
            "`present`: they are repeated in laps that reach up to now."
        },
    )
    start = TimeField(
        load_default=None,
        metadata={
            "description": 'With `clock = "recorded"`: the time at which the provider\'s clock stands '
            "when it opens. What lies after it then comes live. Without it everything is history."
        },
    )
    speed = fields.Float(
        load_default=1.0,
        validate=validate.Range(min=0.001, max=100_000),
        metadata={"description": "How many times faster than real time the provider's clock runs."},
    )
    market = fields.String(
        load_default=None,
        validate=_word,
        metadata={"description": "Without `series`: the market of every file that the folder holds."},
    )
    series = fields.List(
        fields.Nested(_FileSettings),
        load_default=list,
        metadata={
            "description": "The files to serve. Without it, every file of the folder that is called "
            "`<symbol>_<timeframe>[_anything]` and ends in .csv, .csv.gz or .parquet."
        },
    )

    @validates_schema
    def _fit_together(self, data: dict[str, Any], **_: Any) -> None:
        if data["start"] is not None and data["clock"] != "recorded":
            raise ValidationError('A start needs clock = "recorded".', "start")
        if data["speed"] != 1 and data["clock"] == "recorded" and data["start"] is None:
            raise ValidationError(
                'All of it is history, which has no speed: set a start, or clock = "present".', "speed"
            )
        if not data["series"] and data["market"] is None:
            raise ValidationError("Without series, the folder's files need a market.", "market")
        if data["series"] and data["market"] is not None:
            raise ValidationError("Each of the series names its own market: leave this out.", "market")
