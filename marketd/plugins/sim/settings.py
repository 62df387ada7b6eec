"""What the configuration of a simulated exchange may say."""

from __future__ import annotations

from marshmallow import Schema, fields, validate

from marketd.plugins import TimeField


class SimSettings(Schema):
    """The section `[providers.<name>]` of a provider with `plugin = "sim"`."""

    seed = fields.Integer(
        load_default=1,
        metadata={"description": "Which of its countless histories the exchange has."},
    )
    start = TimeField(
        load_default=None,
        metadata={
            "description": "Where the exchange's clock stands when it opens. Without it, at the present."
        },
    )
    speed = fields.Float(
        load_default=1.0,
        validate=validate.Range(min=0.001, max=100_000),
        metadata={"description": "How many times faster than real time the exchange's clock runs."},
    )
