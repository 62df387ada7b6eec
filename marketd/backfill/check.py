"""Whether what the configuration keeps filled can be, as far as that shows before a provider is open."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from marketd.config.kept import KeptConfig
from marketd.config.settings import unlike
from marketd.domain.errors import InvalidInput
from marketd.plugins.loader import PluginLoader


def problems(kept: Sequence[KeptConfig], loader: PluginLoader) -> Iterator[str]:
    """A line for each `[[backfill]]` that names no provider, or parameters that it does not take."""
    for number, config in enumerate(kept, 1):
        if config.provider in loader.failed_providers:
            continue  # which is told by itself
        provider = loader.providers.get(config.provider)
        if provider is None:
            why = (
                f"there is no provider {config.provider[:50]}{unlike(config.provider, loader.providers)}"
            )
            yield f"[[backfill]] {number}, provider: {why}"
            continue
        try:
            provider.load_params(dict(config.params))
        except InvalidInput as error:
            yield f"[[backfill]] {number}, params: {error.message}"
