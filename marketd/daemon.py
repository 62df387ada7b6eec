"""The composition root: opens every part in order, and closes them in reverse."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import Callable, Iterable
from contextlib import AsyncExitStack
from functools import partial
from importlib.metadata import EntryPoint

from aiohttp import web

from marketd.backfill.check import problems
from marketd.backfill.gate import LoadGate
from marketd.backfill.manager import BackfillManager
from marketd.clock import Clock, SystemClock
from marketd.config import Config, StorageConfig
from marketd.control.address import socket_beside
from marketd.control.server import ControlServer
from marketd.domain.errors import ConfigError, MarketdError, StorageFailed
from marketd.market.aggregates import Aggregates
from marketd.market.history import History
from marketd.market.orchestrator import DataOrchestrator
from marketd.market.service import MarketService
from marketd.metrics import Metrics
from marketd.plugins.loader import PluginLoader, installed
from marketd.plugins.provider import Provider
from marketd.ratelimit import RateLimiters
from marketd.storage import Storage
from marketd.streaming.service import SubscriptionService
from marketd.supervisor import Supervisor
from marketd.systemd import Notifier
from marketd.web.app import make_app
from marketd.web.ready import ReadyAnswers
from marketd.web.server import Runner

log = logging.getLogger(__name__)

# How long requests under way may take to end at shutdown.
_DRAIN_S = 5.0
# How many bytes of answers about the past are kept ready.
_READY_BYTES = 32 << 20
# How often a store that takes no writes is tried.
_PROBE_S = 1.0


class Daemon:
    """One marketd. `start`, then `stop`; once.

    `notify` is systemd's socket; `clock` and `found`, the time and the plugins that there are, are for
    who runs it inside another program.
    """

    def __init__(
        self,
        config: Config,
        *,
        notify: str | None = None,
        clock: Clock | None = None,
        found: Callable[[], Iterable[EntryPoint]] = installed,
    ) -> None:
        self._config = config
        self._notifier = Notifier(notify)
        self._opened = AsyncExitStack()
        self.metrics = Metrics()
        self.gate = LoadGate(self.metrics)
        self._clock = clock or SystemClock()
        self._limiters = RateLimiters(config.redis.url, self.metrics)
        self.loader = PluginLoader(
            clock=self._clock,
            upstream=config.upstream,
            metrics=self.metrics,
            limiter=self._limiters.limiter,
            found=found,
        )
        self.storage: Storage = _storage(config.storage)
        self._serves = False
        self.url = ""

    @property
    def is_ready(self) -> bool:
        """Whether requests are answered and what comes in can be kept."""
        return self._serves and not self.storage.fault

    @property
    def reason(self) -> str:
        """Why it is not ready, in a sentence; empty if it is."""
        return self.storage.fault if self._serves else "marketd is starting or stopping."

    async def start(self) -> None:
        """Opens everything; when it returns, requests are answered. Raises MarketdError if it cannot."""
        try:
            await self._open()
        except BaseException:
            await self._opened.aclose()
            raise
        self._serves = True
        self._notifier.ready(f"serving {self.url}")
        log.info("ready url=%s", self.url)

    async def stop(self) -> None:
        """Says goodbye to clients, ends the work under way and closes everything."""
        self._serves = False
        self._notifier.stopping()
        await self._opened.aclose()
        log.info("stopped")

    async def run_until_signalled(self) -> None:
        """Serves until SIGTERM or SIGINT, then stops."""
        signalled = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, signalled.set)
        await signalled.wait()
        await self.stop()

    async def _open(self) -> None:
        config = self._config
        storage = self.storage
        answers = ReadyAnswers(_READY_BYTES)
        storage.listen(answers.changed)
        await storage.open()
        self._opened.push_async_callback(storage.close)
        self._opened.push_async_callback(self._limiters.close)
        for lack in storage.lacks:
            log.info("database %s", lack)
        self.loader.load(config.providers, defaults=config.plugins_may_add)
        self._opened.push_async_callback(self._close_providers)
        if wrong := list(problems(config.backfill, self.loader)):
            raise ConfigError("\n".join(wrong))
        supervisor = Supervisor(self.metrics)
        self._opened.push_async_callback(supervisor.stop)
        history = History(storage, self.metrics)
        orchestrator = DataOrchestrator(
            history,
            request_timeout_ms=config.server.request_timeout,
            depth_ms=config.history.depth,
        )
        subscriptions = SubscriptionService(
            history=orchestrator,
            storage=storage,
            supervisor=supervisor,
            metrics=self.metrics,
            linger_ms=config.stream.linger,
            stall_ms=config.stream.stall,
            ring=config.stream.ring,
        )
        market = MarketService(self.loader, orchestrator)
        backfills = BackfillManager(
            storage=storage,
            history=history,
            feeds=market,
            gate=self.gate,
            supervisor=supervisor,
            clock=self._clock,
            metrics=self.metrics,
            kept=config.backfill,
        )
        app = make_app(
            server=config.server,
            stream=config.stream,
            market=market,
            aggregates=Aggregates(storage, request_timeout_ms=config.server.request_timeout),
            backfills=backfills,
            gate=self.gate,
            loader=self.loader,
            subscriptions=subscriptions,
            metrics=self.metrics,
            readiness=self,
            answers=answers,
        )
        if not config.storage.is_postgres:
            # The file has one owner; a server lets others in by itself.
            control = ControlServer(storage, socket_beside(config.storage.sqlite_path))
            self._opened.push_async_callback(control.close)
            await control.open()
        await self._listen(app)
        supervisor.run("measure the load", self.gate.watch)
        supervisor.run("probe storage", partial(_probe, storage))
        await backfills.open()
        # A provider that is slow to open keeps nobody waiting but who asks for it.
        for provider in self.loader.providers.values():
            supervisor.run(f"open {provider.name}", partial(_open, provider))

    async def _listen(self, app: web.Application) -> None:
        server = self._config.server
        runner = Runner(app, shutdown_timeout=_DRAIN_S)
        self._opened.push_async_callback(runner.cleanup)
        await runner.setup()
        try:
            await web.TCPSite(runner, server.host, server.port).start()
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno else str(error)
            raise ConfigError(
                f"{server.host}:{server.port} cannot be listened on: {reason}. "
                "Choose another with [server] host and port, or --host and --port."
            ) from error
        host, port = runner.addresses[0][:2]
        self.url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"

    async def _close_providers(self) -> None:
        await asyncio.gather(*(provider.close() for provider in self.loader.providers.values()))


def _storage(config: StorageConfig) -> Storage:
    """The store that the configuration names; the driver of the other is never loaded."""
    if config.is_postgres:
        from marketd.storage.postgres import PostgresStorage

        return PostgresStorage(config.url)
    from marketd.storage.sqlite import SQLiteStorage

    return SQLiteStorage(config.sqlite_path)


async def _open(provider: Provider) -> None:
    try:
        await provider.open()
    except MarketdError:
        # The provider has logged it and shows it as its health; the next request tries again.
        return


async def _probe(storage: Storage) -> None:
    """Finds out that a store takes writes again, also when nobody has anything to write."""
    while True:
        await asyncio.sleep(_PROBE_S)
        if storage.fault:
            try:
                await storage.probe()
            except StorageFailed:
                # The store has logged it, and says so until it is over.
                continue
