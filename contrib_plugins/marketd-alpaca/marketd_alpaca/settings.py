"""What the configuration and a request may say."""

from __future__ import annotations

from typing import Any

from marshmallow import Schema, ValidationError, fields, validate, validates_schema

US_EQUITY, CRYPTO, US_OPTION = "us_equity", "crypto", "us_option"
# History of the whole market, asked for 15 minutes late: that needs no subscription.
DELAYED = "delayed_sip"
_FEEDS = ("iex", "sip", "otc")


class AlpacaSettings(Schema):
    """The section `[providers.<name>]` of a provider with `plugin = "alpaca"`."""

    environment = fields.String(
        load_default="paper",
        validate=validate.OneOf(["paper", "live", "sandbox"]),
        metadata={"description": "Whose keys they are: of paper trading, live, or a broker's sandbox."},
    )
    markets = fields.List(
        fields.String(validate=validate.OneOf([US_EQUITY, CRYPTO, US_OPTION])),
        load_default=lambda: [US_EQUITY, CRYPTO],
        validate=validate.Length(min=1),
        metadata={"description": "Which asset classes are served."},
    )
    feed = fields.String(
        load_default="iex",
        validate=validate.OneOf([*_FEEDS, DELAYED]),
        metadata={"description": "Where stocks come from; all but iex and delayed_sip cost something."},
    )
    underlyings = fields.List(
        fields.String(validate=validate.Length(min=1)),
        load_default=list,
        metadata={"description": "The stocks whose options are listed; for us_option."},
    )
    base_url = fields.Url(
        load_default=None,
        schemes={"http", "https"},
        require_tld=False,
        metadata={"description": "Asked instead of Alpaca's own hosts, which follow it in the path."},
    )

    @validates_schema
    def _goes_together(self, data: dict[str, Any], **kwargs: Any) -> None:
        if data["feed"] == DELAYED and data["markets"] != [US_EQUITY]:
            raise ValidationError(
                "delayed_sip is 15 minutes late, which other markets are not: it wants "
                'markets = ["us_equity"], and another provider for the others.',
                "feed",
            )
        if US_OPTION in data["markets"] and not data["underlyings"]:
            raise ValidationError("us_option wants to know the stocks, like AAPL.", "underlyings")


class AlpacaCredentials(Schema):
    """The secrets of `[providers.<name>.credentials]`."""

    key = fields.String(
        required=True, validate=validate.Length(min=1), metadata={"description": "The key's id."}
    )
    secret = fields.String(
        required=True, validate=validate.Length(min=1), metadata={"description": "Its secret."}
    )


class AlpacaParams(Schema):
    """What one request for bars of stocks may ask for."""

    adjustment = fields.String(
        validate=validate.OneOf(["raw", "split", "dividend", "all"]),
        metadata={"description": "What prices are adjusted for; raw if it is not said."},
    )
    feed = fields.String(
        validate=validate.OneOf(_FEEDS),
        metadata={"description": "Another feed than that of the settings."},
    )
