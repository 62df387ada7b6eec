"""`marketd plugins`: what is installed, and how the providers are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from marketd.cli.arguments import url_option
from marketd.cli.running import connect, load_plugins
from marketd.cli.text import table

if TYPE_CHECKING:
    from marketd.client import MarketdClient, ProviderInfo


@click.command()
@url_option
def plugins(url: str) -> None:
    """List the plugins and the providers of the running daemon.

    Where no daemon runs, it loads the plugins that are installed here to see whether they work.

    \b
    marketd plugins
    """
    from marketd.client import MarketdClientError

    try:
        ready, providers = connect(url, _of_daemon)
    except MarketdClientError as error:
        if error.code != "unreachable":
            raise click.ClickException(error.message) from error
        click.echo(f"{error.message}\nWithout it, these are the plugins installed here:\n", err=True)
        click.echo(_plugin_table(_of_installation()))
        return
    click.echo(_plugin_table(ready["plugins"]))
    click.echo()
    click.echo(_provider_table(ready["providers"], providers))


async def _of_daemon(client: MarketdClient) -> tuple[dict[str, Any], list[ProviderInfo]]:
    return await client.ready(), await client.providers()


def _of_installation() -> list[dict[str, Any]]:
    """The same of each plugin as the daemon says."""
    from marketd.config import Config

    return [
        {
            "plugin": report.name,
            "package": report.package,
            "version": report.version,
            "provides": report.provides,
            "error": report.error,
        }
        for report in load_plugins(Config(providers={})).reports
    ]


def _plugin_table(plugins: Sequence[dict[str, Any]]) -> str:
    rows = [
        [
            one["plugin"],
            f"{one['package']} {one['version']}",
            f"failed: {one['error']}" if one["error"] else ", ".join(one["provides"]),
        ]
        for one in plugins
    ]
    return table(["plugin", "package", "provides"], rows)


def _provider_table(states: Sequence[dict[str, Any]], providers: Sequence[ProviderInfo]) -> str:
    known = {one.provider: one for one in providers}
    rows = []
    for state in states:
        info = known.get(state["provider"])
        plugin, markets = (info.plugin, ", ".join(info.markets)) if info else ("-", "-")
        rows.append([state["provider"], plugin, markets, state["state"], state["message"]])
    return table(["provider", "plugin", "markets", "state", "message"], rows)
