"""`marketd serve`: the daemon in this terminal, or under a service manager."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlencode, urlsplit

import click

from marketd import __version__
from marketd.cli.arguments import DEFAULT_URL, config_option
from marketd.cli.running import WrongInput

if TYPE_CHECKING:
    from marketd.config import Config
    from marketd.daemon import Daemon

# How long the first screen waits for a provider's symbols, which make its examples work as they stand.
_SYMBOLS_S = 3.0


@click.command()
@config_option
@click.option("--host", help="The address to listen on, instead of [server] host.")
@click.option("--port", type=click.IntRange(0, 65535), help="The port, instead of [server] port.")
def serve(path: Path | None, host: str | None, port: int | None) -> None:
    """Start the daemon, until Ctrl-C or SIGTERM.

    Without a configuration it simulates an exchange, listens on this machine alone and keeps its
    database in your data folder. MARKETD_SERVER__PORT=9000 is [server] port, and so on.

    \b
    marketd serve
    marketd serve -c /etc/marketd.toml --port 9000
    """
    import asyncio

    from marketd import logs
    from marketd.config import load_config
    from marketd.domain.errors import ConfigError, MarketdError

    environ = dict(os.environ)
    if host is not None:
        environ["MARKETD_SERVER__HOST"] = host
    if port is not None:
        environ["MARKETD_SERVER__PORT"] = str(port)
    try:
        config = load_config(path, environ)
        logs.setup(config.log.level, config.log.format, set(_secrets(config)))
        asyncio.run(_serve(config, environ.get("NOTIFY_SOCKET")))
    except ConfigError as error:
        raise WrongInput(error.message) from error
    except MarketdError as error:
        raise click.ClickException(error.message) from error


async def _serve(config: Config, notify: str | None) -> None:
    import asyncio

    from marketd.daemon import Daemon
    from marketd.supervisor import cancel_all

    daemon = Daemon(config, notify=notify)
    await daemon.start()
    greeting = asyncio.create_task(_greet(daemon, config))
    try:
        await daemon.run_until_signalled()
    finally:
        await cancel_all({greeting})


async def _greet(daemon: Daemon, config: Config) -> None:
    """The first screen, in two pieces, so that no line of the log comes between theirs."""
    click.echo("\n".join(_facts(daemon, config)))
    example = await _example(daemon)
    elsewhere = "" if daemon.url == DEFAULT_URL else f" --url {daemon.url}"
    lines = ["", "Try, in another terminal:", "", f"  curl '{daemon.url}/api/v1/markets'"]
    if example is not None:
        lines.append(f"  curl '{daemon.url}/api/v1/ohlcv?{urlencode(example, safe='/')}'")
    lines += [f"  {_own_name()} tail{elsewhere}", "", "Ctrl-C ends it."]
    click.echo("\n".join(lines))


def _facts(daemon: Daemon, config: Config) -> Iterator[str]:
    yield f"marketd {__version__} answers at {daemon.url}"
    yield ""
    yield f"  documentation  {daemon.url}/docs"
    yield f"  database       {config.storage}"
    for name, provider in daemon.loader.providers.items():
        plugin = provider.plugin
        yield f"  provider       {name} ({plugin.plugin}): {plugin.description}"
    for name, reason in daemon.loader.failed_providers.items():
        yield f"  provider       {name} failed: {reason}"


def _own_name() -> str:
    """How this program is called from a shell in the same folder."""
    if shutil.which("marketd"):
        return "marketd"
    called = Path(sys.argv[0])
    return os.path.relpath(called) if called.name == "marketd" else f"{sys.executable} -m marketd"


async def _example(daemon: Daemon) -> dict[str, str] | None:
    """A question about bars that can be asked as it stands; None while no provider says its symbols."""
    import asyncio

    from marketd.domain.errors import MarketdError

    for provider in daemon.loader.providers.values():
        for market in provider.plugin.markets:
            try:
                async with asyncio.timeout(_SYMBOLS_S):
                    symbols = await provider.symbols(market)
            except (MarketdError, TimeoutError):
                break
            coarsest = max(provider.plugin.timeframes, key=lambda timeframe: timeframe.nominal_ms)
            for symbol in sorted(symbols)[:1]:
                names = {"market": market, "provider": provider.name, "symbol": symbol}
                return names | {"timeframe": str(coarsest), "limit": "5"}
    return None


def _secrets(config: Config) -> Iterator[str]:
    """Every credential, for the log to blank out."""
    waiting: list[Any] = [one.credentials for one in config.providers.values()]
    waiting.append(unquote(urlsplit(config.redis.url).password or ""))
    while waiting:
        value = waiting.pop()
        if isinstance(value, Mapping):
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value
        else:
            yield str(value)
