"""Twelve Data as a provider of marketd."""

from collections.abc import Sequence

from marketd.plugins import MarketPlugin, hookimpl
from marketd_twelvedata.plugin import TwelveDataPlugin


@hookimpl
def marketd_providers() -> Sequence[type[MarketPlugin]]:
    return [TwelveDataPlugin]
