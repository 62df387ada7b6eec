"""`marketd check-config`: whether the daemon could start with a configuration."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from marketd.cli.arguments import config_option
from marketd.cli.running import WrongInput, load_plugins

if TYPE_CHECKING:
    from marketd.config import Config
    from marketd.config.kept import KeptConfig
    from marketd.plugins.provider import Provider


@click.command("check-config")
@config_option
def check_config(path: Path | None) -> None:
    """Check the settings that the daemon would start with.

    Reads the file and the environment, and has each provider's plugin check its own part; nothing is
    started. Prints the settings in effect, without credentials, or everything that is wrong (and ends
    with 2).

    \b
    marketd check-config -c /etc/marketd.toml
    """
    from marketd.backfill.check import problems as problems_of_kept
    from marketd.config import load_config
    from marketd.domain.errors import ConfigError

    try:
        config = load_config(path, os.environ)
    except ConfigError as error:
        raise WrongInput(error.message) from error
    loader = load_plugins(config)
    problems = [f"plugin {one.name}: {one.error}" for one in loader.reports if one.error]
    problems += loader.failed_providers.values()
    plugins = loader.plugins_of(config.providers, defaults=config.plugins_may_add)
    problems += problems_of_kept(config.backfill, plugins)
    if problems:
        raise WrongInput("\n".join(problems))
    click.echo("ok\n")
    click.echo("\n".join(_sections(config)))
    for name, provider in loader.providers.items():
        click.echo("\n".join(_provider(name, provider)))
    for kept in config.backfill:
        click.echo("\n".join(_kept(kept)))


def _sections(config: Config) -> Iterator[str]:
    from marketd.config import declared_settings

    section = ""
    for each in declared_settings():
        if each.section != section:
            section = each.section
            yield f"[{section}]"
        yield f"{each.key} = {each.kind.toml(getattr(getattr(config, section), each.key))}"


def _provider(name: str, provider: Provider) -> Iterator[str]:
    from marketd.config.settings import shown

    yield f"[providers.{name}]"
    yield f"plugin = {shown(provider.plugin.plugin)}"
    for key, value in provider.plugin.context.settings.items():
        if value is not None:
            yield f"{key} = {shown(value)}"


def _kept(kept: KeptConfig) -> Iterator[str]:
    from marketd.config import kept_settings

    yield "[[backfill]]"
    for each in kept_settings():
        yield f"{each.key} = {each.kind.toml(getattr(kept, each.key))}"
