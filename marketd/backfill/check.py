"""Whether what the configuration keeps filled can be, as far as that shows before a provider is open."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from marketd.config.kept import KeptConfig
from marketd.config.settings import unlike
from marketd.domain.errors import InvalidInput
from marketd.plugins.base import MarketPlugin
from marketd.plugins.params import load_params


def problems(
    kept: Sequence[KeptConfig], plugins: Mapping[str, type[MarketPlugin] | None]
) -> Iterator[str]:
    """A line for each `[[backfill]]` that names no provider, or parameters that it does not take.

    `plugins` has the plugin of every provider; None where it is not installed, which is told by itself.
    """
    for number, config in enumerate(kept, 1):
        if config.provider not in plugins:
            why = f"there is no provider {config.provider[:50]}{unlike(config.provider, plugins)}"
            yield f"[[backfill]] {number}, provider: {why}"
        elif (plugin := plugins[config.provider]) is not None:
            try:
                load_params(config.provider, plugin.params_schema, dict(config.params))
            except InvalidInput as error:
                yield f"[[backfill]] {number}, params: {error.message}"
