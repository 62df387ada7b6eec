"""`marketd serve`: the daemon in this terminal, or under a service manager."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping
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

# What is open beside the sockets of stream clients: the database, providers, requests.
_OTHER_FILES = 1_000


@click.command()
@config_option
@click.option("--host", help="The address to listen on, instead of [server] host.")
@click.option("--port", type=click.IntRange(0, 65535), help="The port, instead of [server] port.")
def serve(path: Path | None, host: str | None, port: int | None) -> None:
    """Start the daemon, until Ctrl-C or SIGTERM. SIGHUP reads the providers' sections again.

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

    def read_again() -> Config:
        config = load_config(path, environ)
        logs.conceal(set(_secrets(config)))
        return config

    try:
        config = load_config(path, environ)
        logs.setup(config.log.level, config.log.format, set(_secrets(config)))
        _allow_files(config.stream.max_clients + _OTHER_FILES)
        asyncio.run(_serve(config, environ.get("NOTIFY_SOCKET"), read_again))
    except ConfigError as error:
        raise WrongInput(error.message) from error
    except MarketdError as error:
        raise click.ClickException(error.message) from error


def _allow_files(wanted: int) -> None:
    """Lets the process have that many files and sockets open, or as many as the system lets it.

    What a process may have at first is often 1,024, for the sake of programs that count no further.
    """
    import logging
    import resource

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = wanted if resource.RLIM_INFINITY in (soft, hard) else min(wanted, hard)
    if soft < most and soft != resource.RLIM_INFINITY:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
        except (OSError, ValueError):
            # macOS has a lower limit that it does not tell.
            most = soft
    if most < wanted:
        logging.getLogger(__name__).warning(
            "the system allows fewer open files than stream.max_clients takes allowed=%d", most
        )


async def _serve(config: Config, notify: str | None, read_again: Callable[[], Config]) -> None:
    import asyncio

    from marketd.daemon import Daemon
    from marketd.supervisor import cancel_all

    daemon = Daemon(config, notify=notify)
    await daemon.start()
    greeting = asyncio.create_task(_greet(daemon, config))
    try:
        await daemon.run_until_signalled(read_again)
    finally:
        await cancel_all({greeting})


async def _greet(daemon: Daemon, config: Config) -> None:
    """The first screen, in two pieces, so that no line of the log comes between theirs."""
    click.echo("\n".join(_facts(daemon, config)))
    example = await _example(daemon)
    elsewhere = "" if daemon.url == DEFAULT_URL else f" --url {daemon.url}"
    lines = ["", "Try, in another terminal:", "", f"  curl '{daemon.url}/api/v1/markets'"]
    if example is not None:
        lines.append(f"  curl '{daemon.url}/api/v1/{example}'")
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


async def _example(daemon: Daemon) -> str | None:
    """A question that can be asked as it stands; None where there is no provider.

    Of bars, if the simulated exchange is there to name a symbol; no other provider is opened for it.
    """
    for provider in daemon.loader.providers.values():
        if provider.plugin.plugin != "sim":
            continue
        market = provider.plugin.markets[0]
        symbol = min(await provider.symbols(market))
        names = {"market": market, "provider": provider.name, "symbol": symbol}
        return f"ohlcv?{urlencode(names | {'timeframe': '1d', 'limit': '5'}, safe='/')}"
    for provider in daemon.loader.providers.values():
        names = {"market": provider.plugin.markets[0], "provider": provider.name}
        return f"symbols?{urlencode(names | {'limit': '5'})}"
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
