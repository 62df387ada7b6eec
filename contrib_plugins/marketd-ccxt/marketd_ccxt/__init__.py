"""Every exchange of ccxt as a provider of marketd.

ccxt itself is imported when a provider opens, and of it no more than that exchange: see `exchanges`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from marketd.plugins import MarketPlugin, hookimpl
from marketd_ccxt.plugin import CcxtPlugin


@hookimpl
def marketd_providers() -> Sequence[type[MarketPlugin]]:
    return [CcxtPlugin]


@hookimpl
def marketd_default_providers() -> Mapping[str, Mapping[str, Any]]:
    return {"kraken": {"plugin": "ccxt", "exchange": "kraken"}}
