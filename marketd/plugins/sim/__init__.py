"""The built-in provider `sim`: a simulated exchange that needs no network, no file and no key."""

from __future__ import annotations

from collections.abc import Sequence

from marketd.plugins import MarketPlugin, hookimpl
from marketd.plugins.sim.plugin import SimPlugin

__all__ = ["SimPlugin", "marketd_providers"]


@hookimpl
def marketd_providers() -> Sequence[type[MarketPlugin]]:
    return [SimPlugin]
