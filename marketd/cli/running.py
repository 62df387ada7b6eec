"""What the commands work with: a client of the daemon, or the plugins of this installation."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, TypeVar

import click

if TYPE_CHECKING:
    from marketd.client import MarketdClient
    from marketd.config import Config
    from marketd.plugins.loader import PluginLoader

T = TypeVar("T")


class WrongInput(click.ClickException):
    """Ends the command as wrong options do: with 2, and a message on standard error."""

    exit_code = 2


def connect(url: str, work: Callable[[MarketdClient], Awaitable[T]]) -> T:
    """What `work` gives with a client of the daemon at `url`; raises MarketdClientError."""
    import asyncio

    from marketd.client import MarketdClient

    async def run() -> T:
        async with MarketdClient(url) as client:
            return await work(client)

    return asyncio.run(run())


def ask(url: str, work: Callable[[MarketdClient], Awaitable[T]]) -> T:
    """The same for a command that can do nothing without the daemon."""
    from marketd.client import MarketdClientError

    try:
        return connect(url, work)
    except MarketdClientError as error:
        raise click.ClickException(error.message) from error


def load_plugins(config: Config) -> PluginLoader:
    """Every installed plugin and configured provider, loaded without a daemon; nothing is opened."""
    import logging

    from marketd.clock import SystemClock
    from marketd.metrics import Metrics
    from marketd.plugins.loader import PluginLoader
    from marketd.ratelimit import RateLimiters

    # What failed is in the loader, for the command to tell; the log would tell it twice.
    logging.getLogger("marketd").addHandler(logging.NullHandler())
    metrics = Metrics()
    loader = PluginLoader(
        clock=SystemClock(),
        upstream=config.upstream,
        metrics=metrics,
        limiter=RateLimiters("", metrics).limiter,
    )
    loader.load(config.providers, defaults=config.plugins_may_add)
    return loader
