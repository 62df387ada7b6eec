"""Massive, formerly Polygon, as a provider of marketd."""

from collections.abc import Sequence

from marketd.plugins import MarketPlugin, hookimpl
from marketd_massive.plugin import MassivePlugin


@hookimpl
def marketd_providers() -> Sequence[type[MarketPlugin]]:
    return [MassivePlugin]
