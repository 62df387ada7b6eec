"""The hooks that a package may implement. Hooks are synchronous and only declare."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pluggy

from marketd.plugins.base import MarketPlugin
from marketd.plugins.extension import Extension

PROJECT = "marketd"

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def marketd_providers() -> Sequence[type[MarketPlugin]]:
    """Fires once at start, before any provider opens: the provider plugins of this package."""
    raise NotImplementedError  # a specification is never called


@hookspec
def marketd_default_providers() -> Mapping[str, Mapping[str, Any]]:
    """Fires once at start: providers by name, for where the configuration names none at all.

    Each is what its table `[providers.<name>]` would hold, `plugin` included, and no secret. They are
    opened as soon as requests are answered, so that it shows whether they are there.
    """
    raise NotImplementedError  # a specification is never called


@hookspec
def marketd_extensions() -> Sequence[Extension]:
    """Fires once at start, before requests are answered: what adds routes, or hears of stored bars."""
    raise NotImplementedError  # a specification is never called
