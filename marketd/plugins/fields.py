"""Marshmallow fields for marketd's own kinds of value, for the schemas of plugins and of requests."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from marshmallow import ValidationError, fields

from marketd.domain.errors import InvalidInput
from marketd.domain.instant import epoch_ms
from marketd.domain.timeframe import Timeframe


class TimeField(fields.Field[int]):
    """A time, see `marketd.domain.instant.epoch_ms`; loads as epoch milliseconds."""

    def _deserialize(
        self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any
    ) -> int:
        try:
            return epoch_ms(value)
        except ValueError as error:
            raise ValidationError(str(error)) from None


class TimeframeField(fields.Field[Timeframe]):
    """A timeframe such as `1m`, `4h` or `1M`; loads as a Timeframe."""

    def _deserialize(
        self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any
    ) -> Timeframe:
        try:
            return Timeframe.parse(value if isinstance(value, str) else "")
        except InvalidInput as error:
            raise ValidationError(error.message) from None
