"""Alpaca's market data as a provider of marketd: stocks, crypto and options, history and live."""

from collections.abc import Sequence

from marketd.plugins import MarketPlugin, hookimpl
from marketd_alpaca.plugin import AlpacaPlugin


@hookimpl
def marketd_providers() -> Sequence[type[MarketPlugin]]:
    return [AlpacaPlugin]
