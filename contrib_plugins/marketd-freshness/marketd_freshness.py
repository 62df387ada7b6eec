"""Which series were stored lately: `GET /api/v1/plugins/freshness/series`."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

from marshmallow import Schema, fields

from marketd.domain.instrument import Series
from marketd.domain.timerange import TimeRange
from marketd.plugins import Extension, Route, hookimpl

_MOST = 10_000


class Query(Schema):
    provider = fields.String(metadata={"description": "Only series of this provider."})


class Seen(Schema):
    market = fields.String(required=True)
    provider = fields.String(required=True)
    symbol = fields.String(required=True)
    timeframe = fields.String(required=True)
    stored = fields.Integer(required=True)
    reaches = fields.Integer(required=True)


class FreshnessOut(Schema):
    series = fields.List(fields.Nested(Seen), required=True)


class Freshness(Extension):
    """Remembers, for each series, when it was stored last and how far it reaches."""

    def __init__(self) -> None:
        self._seen: dict[Series, tuple[int, int]] = {}

    def routes(self) -> Sequence[Route]:
        return [Route("series", "Series stored lately", self.series, Query, FreshnessOut)]

    async def bars_stored(self, series: Series, span: TimeRange) -> None:
        _, reached_ms = self._seen.pop(series, (0, 0))
        self._seen[series] = (time.time_ns() // 1_000_000, max(reached_ms, span.end_ms))
        if len(self._seen) > _MOST:
            del self._seen[next(iter(self._seen))]

    async def series(self, query: Mapping[str, Any]) -> Any:
        """Every series, or those of one provider, the one that has waited longest first."""
        wanted = query.get("provider")
        return {
            "series": [
                {
                    "market": series.instrument.market,
                    "provider": series.instrument.provider,
                    "symbol": series.instrument.symbol,
                    "timeframe": str(series.timeframe),
                    "stored": stored_ms,
                    "reaches": reached_ms,
                }
                for series, (stored_ms, reached_ms) in self._seen.items()
                if wanted in (None, series.instrument.provider)
            ]
        }


@hookimpl
def marketd_extensions() -> Sequence[Extension]:
    return [Freshness()]
