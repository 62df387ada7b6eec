"""What goes out, field by field: for the document that describes it."""

from __future__ import annotations

from marshmallow import (
    Schema,
    fields,
    validate,
)

from marketd.backfill.job import State
from marketd.domain.coverage import GAP_REASONS


class MarketOut(Schema):
    market = fields.String(required=True)
    providers = fields.List(fields.String(), required=True)


class MarketsOut(Schema):
    markets = fields.List(fields.Nested(MarketOut), required=True)


class HealthOut(Schema):
    state = fields.String(required=True, validate=validate.OneOf(["idle", "opening", "up", "down"]))
    message = fields.String(required=True)


class FeedsOut(Schema):
    live = fields.Integer(required=True)
    stale = fields.Integer(required=True)
    down = fields.Integer(required=True)


class RateOut(Schema):
    requests = fields.Integer(required=True)
    per_ms = fields.Integer(required=True)
    burst = fields.Integer(required=True)


class LimitsOut(Schema):
    page = fields.Integer(required=True, metadata={"description": "The most bars of one call."})
    concurrency = fields.Integer(
        required=True, metadata={"description": "The most calls under way at once."}
    )
    rate = fields.Nested(
        RateOut, required=True, allow_none=True, metadata={"description": "How often it is asked."}
    )


class SchemasOut(Schema):
    settings = fields.Dict(required=True)
    credentials = fields.Dict(required=True)
    params = fields.Dict(required=True)


class ProviderOut(Schema):
    provider = fields.String(required=True)
    plugin = fields.String(required=True)
    description = fields.String(required=True)
    markets = fields.List(fields.String(), required=True)
    timeframes = fields.List(
        fields.String(), required=True, metadata={"description": "Its own; others are derived."}
    )
    features = fields.List(fields.String(), required=True)
    limits = fields.Nested(LimitsOut, required=True)
    schemas = fields.Nested(
        SchemasOut,
        required=True,
        metadata={"description": "JSON schemas of its section, its secrets and a request's parameters."},
    )
    health = fields.Nested(HealthOut, required=True)
    feeds = fields.Nested(
        FeedsOut,
        required=True,
        metadata={"description": "How many series and tapes are followed, by state."},
    )


class ProvidersOut(Schema):
    providers = fields.List(fields.Nested(ProviderOut), required=True)


class SymbolOut(Schema):
    symbol = fields.String(required=True)
    market = fields.String(required=True)
    name = fields.String(required=True)
    base = fields.String(required=True)
    quote = fields.String(required=True)
    first = fields.Integer(required=True, allow_none=True)
    last = fields.Integer(required=True, allow_none=True)


class SymbolsOut(Schema):
    symbols = fields.List(fields.Nested(SymbolOut), required=True)
    next_page_token = fields.String(required=True, allow_none=True)


class GapOut(Schema):
    start = fields.Integer(required=True)
    end = fields.Integer(required=True, metadata={"description": "Exclusive."})
    reason = fields.String(required=True, validate=validate.OneOf(GAP_REASONS))


class GapsOut(Schema):
    gaps = fields.List(fields.Nested(GapOut), required=True)


# NaN and the infinities are text: JSON has no number for them.
_NUMBER = {"anyOf": [{"type": ["number", "null"]}, {"enum": ["NaN", "Infinity", "-Infinity"]}]}


# No schema tells the five apart by their place.
_OF_TICK = {"type": ["integer", "number", "string"]}


class TicksOut(Schema):
    market = fields.String(required=True)
    provider = fields.String(required=True)
    symbol = fields.String(required=True)
    ticks = fields.List(
        fields.Raw(metadata={"type": "array", "items": _OF_TICK, "minItems": 5, "maxItems": 5}),
        required=True,
        metadata={"description": "[time, price, size, side, id], ascending by time."},
    )
    complete = fields.Boolean(required=True)
    gaps = fields.List(fields.Nested(GapOut), required=True)
    next_page_token = fields.String(required=True, allow_none=True)


class OhlcvOut(Schema):
    market = fields.String(required=True)
    provider = fields.String(required=True)
    symbol = fields.String(required=True)
    timeframe = fields.String(required=True)
    bars = fields.List(
        fields.Raw(metadata={"type": "array", "items": _NUMBER, "minItems": 6, "maxItems": 6}),
        required=True,
        metadata={"description": "[open time, open, high, low, close, volume], ascending."},
    )
    filled = fields.List(
        fields.Integer(), metadata={"description": "With fill: the times of rows that are no bars."}
    )
    complete = fields.Boolean(required=True)
    gaps = fields.List(fields.Nested(GapOut), required=True)
    next_page_token = fields.String(required=True, allow_none=True)


class RefreshOut(Schema):
    buckets = fields.Integer(required=True, metadata={"description": "How many bars were computed."})
    complete = fields.Boolean(required=True)


class BackfillOut(Schema):
    id = fields.String(required=True)
    state = fields.String(required=True, validate=validate.OneOf(list(State)))
    message = fields.String(
        required=True, metadata={"description": "Why it failed, or what it waits for."}
    )
    market = fields.String(required=True)
    provider = fields.String(required=True)
    symbol = fields.String(required=True)
    timeframe = fields.String(required=True)
    params = fields.Dict(keys=fields.String(), values=fields.String(), required=True)
    since = fields.Integer(required=True)
    before = fields.Integer(required=True)
    repair = fields.Boolean(required=True)
    created = fields.Integer(required=True)
    updated = fields.Integer(required=True)
    progress = fields.Float(
        required=True, metadata={"description": "How much of its time is known, 0 to 1."}
    )
    eta_seconds = fields.Float(required=True, allow_none=True)
    bars_per_second = fields.Float(required=True)
    bars = fields.Integer(
        required=True, metadata={"description": "Fetched since it last began; of a repair, in all."}
    )
    new = fields.Integer(required=True, metadata={"description": "Of these, bars that were not stored."})
    revised = fields.Integer(
        required=True, metadata={"description": "Of these, bars that have changed."}
    )
    refused = fields.Integer(
        required=True, metadata={"description": "Ranges that cannot be right: see /api/v1/gaps."}
    )
    every_seconds = fields.Float(
        required=True,
        allow_none=True,
        metadata={"description": "How often it begins again, if the configuration keeps it."},
    )
    next = fields.Integer(
        required=True,
        allow_none=True,
        metadata={"description": "When it begins again, unless it is under way."},
    )


class BackfillsOut(Schema):
    backfills = fields.List(fields.Nested(BackfillOut), required=True)


class StateOut(Schema):
    status = fields.String(required=True)


class PluginOut(Schema):
    plugin = fields.String(required=True)
    package = fields.String(required=True)
    version = fields.String(required=True)
    provides = fields.List(fields.String(), required=True)
    error = fields.String(required=True)


class ProviderStateOut(Schema):
    provider = fields.String(required=True)
    state = fields.String(required=True)
    message = fields.String(required=True)


class NodesOut(Schema):
    state = fields.String(
        required=True,
        validate=validate.OneOf(["one", "together", "alone"]),
        metadata={
            "description": "Whether this is one node, or divides what it follows with others, or would "
            "and is cut off from them."
        },
    )
    message = fields.String(required=True, metadata={"description": "Why it is alone, or empty."})


class ReadyOut(Schema):
    status = fields.String(required=True, validate=validate.OneOf(["ready", "not_ready"]))
    message = fields.String(required=True, metadata={"description": "Why not, or empty."})
    nodes = fields.Nested(NodesOut, required=True)
    plugins = fields.List(fields.Nested(PluginOut), required=True)
    providers = fields.List(fields.Nested(ProviderStateOut), required=True)


class ProblemOut(Schema):
    type = fields.String(required=True)
    title = fields.String(required=True)
    status = fields.Integer(required=True)
    code = fields.String(required=True, metadata={"description": "Stable; for programs."})
    detail = fields.String(required=True, metadata={"description": "One sentence; for people."})
    field = fields.String(metadata={"description": "The input at fault."})
