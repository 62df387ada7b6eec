"""What the configuration of an exchange may say."""

from __future__ import annotations

from typing import Any

from marshmallow import Schema, ValidationError, fields, validate, validates_schema

# marketd's markets, by ccxt's types of them. What settles on a day is a market of its own.
MARKETS = {"spot": "crypto", "swap": "crypto_swap", "future": "crypto_future"}


class CcxtSettings(Schema):
    """The section `[providers.<name>]` of a provider with `plugin = "ccxt"`."""

    exchange = fields.String(
        required=True,
        validate=validate.Regexp(r"^[a-z0-9]+$", error="A name as ccxt has it is wanted, like kraken."),
        metadata={"description": "The exchange, by ccxt's name of it."},
    )
    types = fields.List(
        fields.String(validate=validate.OneOf(list(MARKETS))),
        load_default=lambda: ["spot"],
        validate=validate.Length(min=1),
        metadata={"description": "Which of its markets: spot, swap (perpetual), future (dated)."},
    )
    sandbox = fields.Boolean(
        load_default=False, metadata={"description": "Ask the exchange's test system instead."}
    )
    base_url = fields.Url(
        load_default=None,
        schemes={"http", "https"},
        require_tld=False,
        metadata={"description": "Asked instead of the exchange's own addresses, which follow it."},
    )


class CcxtCredentials(Schema):
    """The secrets of `[providers.<name>.credentials]`. Market data needs none on most exchanges."""

    api_key = fields.String(load_default="", metadata={"description": "The key."})
    secret = fields.String(load_default="", metadata={"description": "Its secret."})
    password = fields.String(load_default="", metadata={"description": "Its passphrase, if it has one."})
    uid = fields.String(load_default="", metadata={"description": "The account, where it is asked for."})

    @validates_schema
    def _has_a_key(self, data: dict[str, Any], **kwargs: Any) -> None:
        if any(data.values()) and not data["api_key"]:
            raise ValidationError("A key is wanted where there are other credentials.", "api_key")
