"""The built-in provider `replay`: any folder of recorded series, served as a provider."""

from __future__ import annotations

from collections.abc import Sequence

from marketd.plugins import MarketPlugin, hookimpl
from marketd.plugins.replay.plugin import ReplayPlugin

__all__ = ["ReplayPlugin", "marketd_providers"]


@hookimpl
def marketd_providers() -> Sequence[type[MarketPlugin]]:
    return [ReplayPlugin]
