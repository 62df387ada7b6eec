"""The composition root: opens every part in order, and closes them in reverse."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
from collections.abc import Callable, Iterable
from contextlib import AsyncExitStack
from dataclasses import fields
from functools import partial
from importlib.metadata import EntryPoint
from typing import Any

from aiohttp import web

from marketd import chores
from marketd.backfill.check import problems
from marketd.backfill.gate import LoadGate
from marketd.backfill.manager import BackfillManager
from marketd.bus.redis import RedisBus, RedisLeases, connect
from marketd.cache import BarCache, MemoryCache
from marketd.cache.redis import RedisCache
from marketd.clock import Clock, SystemClock
from marketd.config import Config, StorageConfig
from marketd.control.address import socket_beside
from marketd.control.server import ControlServer
from marketd.domain.errors import ConfigError
from marketd.market.aggregates import Aggregates
from marketd.market.history import History
from marketd.market.late import LateTrades
from marketd.market.orchestrator import DataOrchestrator
from marketd.market.service import MarketService
from marketd.market.tapes import Tapes
from marketd.market.tick_bar_pages import TickBarPages
from marketd.market.tick_pages import TickPages
from marketd.market.time_bars import TimeBars
from marketd.metrics import Metrics
from marketd.plugins.hearing import Hearer
from marketd.plugins.loader import PluginLoader, installed
from marketd.ratelimit import RateLimiters
from marketd.storage import Storage
from marketd.storage.records import Change
from marketd.streaming.broadcast import BroadcastManager
from marketd.streaming.member import Others
from marketd.streaming.node_worker import NodeWorker
from marketd.streaming.nodes import Nodes
from marketd.streaming.service import SubscriptionService
from marketd.streaming.tapes import TapeService
from marketd.streaming.tick_bars import TickBarService
from marketd.streaming.worker import LoneWorker
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
# What counts as soon as it is read again; a change of all else counts after a restart.
_RELOADED = ("providers", "plugins_may_add")


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
        self._answers = ReadyAnswers(_READY_BYTES)
        self._supervisor = Supervisor(self.metrics)
        self._nodes: Nodes | None = None
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

    @property
    def nodes(self) -> tuple[str, str]:
        """Whether this is the `one` node, or `together` with others, or `alone`, and then why."""
        if self._nodes is None:
            return "one", ""
        return ("alone", self._nodes.fault) if self._nodes.fault else ("together", "")

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

    async def run_until_signalled(self, read_config: Callable[[], Config]) -> None:
        """Serves until SIGTERM or SIGINT, then stops. At SIGHUP the configuration is read again.

        The process is the daemon's from here on.
        """
        _spare_what_stays()
        ended, told = asyncio.Event(), asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, ended.set)
        loop.add_signal_handler(signal.SIGHUP, told.set)
        self._supervisor.run("reload", partial(self._reload_when, told, read_config))
        await ended.wait()
        await self.stop()

    async def reload(self, config: Config) -> None:
        """Sets up anew the providers whose sections are new or different; all others go on untouched.

        Raises ConfigError, with nothing changed, if one of them cannot be set up, or is gone while a
        `[[backfill]]` names it.
        """
        self._check_kept(config)
        changed = await self.loader.reload(config.providers, defaults=config.plugins_may_add)
        for name in changed:
            self._answers.forget(name)
        log.info("configuration read again providers_changed=%s", ",".join(sorted(changed)) or "none")
        for section in (one.name for one in fields(config) if one.name not in _RELOADED):
            if getattr(config, section) != getattr(self._config, section):
                log.warning("a section has changed, which counts after a restart section=%s", section)

    def _check_kept(self, config: Config) -> None:
        """Raises ConfigError if what `config` keeps filled cannot be, with the providers that it has."""
        plugins = self.loader.plugins_of(config.providers, defaults=config.plugins_may_add)
        if wrong := list(problems(config.backfill, plugins)):
            raise ConfigError("\n".join(wrong))

    async def _reload_when(self, told: asyncio.Event, read_config: Callable[[], Config]) -> None:
        while True:
            await told.wait()
            told.clear()
            try:
                await self.reload(read_config())
            except ConfigError as error:
                log.error("configuration refused, the former goes on reason=%s", error.message)  # noqa: TRY400

    async def _open(self) -> None:
        config = self._config
        storage = self.storage
        answers = self._answers
        storage.listen(answers.changed)
        storage.watch(lambda fault: self.metrics.storage_faults.labels(fault).inc())
        await storage.open()
        self._opened.push_async_callback(storage.close)
        self._opened.push_async_callback(self._limiters.close)
        for lack in storage.lacks:
            log.info("database %s", lack)
        self.loader.load(config.providers, defaults=config.plugins_may_add)
        self._opened.push_async_callback(self.loader.close)
        self._check_kept(config)
        others = self._others()
        supervisor = self._supervisor
        self._opened.push_async_callback(supervisor.stop)
        history = History(storage, self.metrics, self._caches())
        orchestrator = DataOrchestrator(
            history,
            request_timeout_ms=config.server.request_timeout,
            depth_ms=config.history.depth,
        )
        broadcast = BroadcastManager(self.metrics, most_channels=config.stream.max_streams)
        tapes = Tapes(storage, self.metrics)
        reading = {
            "request_timeout_ms": config.server.request_timeout,
            "keep_ms": config.ticks.keep,
        }
        time_bars = TimeBars(tapes, late_ms=config.ticks.late)
        late = LateTrades(time_bars, history, self.metrics, late_ms=config.ticks.late)
        tapes.watch(late.came)
        tick_bar_pages = TickBarPages(tapes, **reading)
        market = MarketService(
            self.loader,
            orchestrator,
            time_bars,
            TickPages(tapes, **reading),
            tick_bar_pages,
            storage,
        )
        following: dict[str, Any] = {
            "broadcast": broadcast,
            "supervisor": supervisor,
            "linger_ms": config.stream.linger,
            "ring": config.stream.ring,
            "request_timeout_ms": config.server.request_timeout,
        }
        followed_tapes = TapeService(
            tapes=tapes,
            bars=market,
            metrics=self.metrics,
            stall_ms=config.stream.stall,
            others=others,
            **following,
        )
        subscriptions = SubscriptionService(
            history=orchestrator,
            storage=storage,
            broadcast=broadcast,
            supervisor=supervisor,
            metrics=self.metrics,
            linger_ms=config.stream.linger,
            workers=partial(
                partial(NodeWorker, others=others) if others else LoneWorker,
                history=orchestrator,
                storage=storage,
                tapes=followed_tapes,
                urgent=self.gate.urgent,
                stall_ms=config.stream.stall,
            ),
            ring=config.stream.ring,
        )
        tick_bars = TickBarService(tapes=followed_tapes, past=tick_bar_pages, **following)
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
            broadcast=broadcast,
            subscriptions=subscriptions,
            tapes=followed_tapes,
            tick_bars=tick_bars,
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
        supervisor.run(
            "probe storage", partial(chores.probe, storage, self.metrics.storage_fault_seconds)
        )
        supervisor.run("revise bars of late trades", late.run)
        supervisor.run("drop old trades", partial(chores.drop, storage, self._clock, config.ticks.keep))
        for plugin, extension, _ in self.loader.extensions:
            hearer = Hearer(
                plugin, extension, timeout_s=config.upstream.timeout / 1000, metrics=self.metrics
            )
            storage.listen(partial(_tell, hearer))
            supervisor.run(f"tell {plugin} of bars", hearer.run)
        supervisor.run(
            "close idle providers", partial(chores.close_idle, self.loader, config.upstream.idle)
        )
        self._opened.push_async_callback(backfills.close)
        await backfills.open()
        for name in self.loader.providers.keys() - config.providers.keys():
            supervisor.run(f"try {name}", partial(chores.open_if_there, self.loader.providers[name]))

    def _caches(self) -> list[BarCache]:
        """Where bars are looked for before the store is asked, nearest first."""
        caches: list[BarCache] = [MemoryCache(self._config.cache.memory)]
        if self._config.redis.url and self.storage.identity:
            # A database for one process alone is nearer than Redis.
            caches.append(RedisCache(self._config.redis.url, self.storage.identity, self.metrics))
        for cache in caches:
            self._opened.push_async_callback(cache.close)
        return caches

    def _others(self) -> Others | None:
        """The way to the nodes that share the store; None if nobody can."""
        url, space = self._config.redis.url, self.storage.identity
        if not url:
            return None
        if not space:
            log.info("nodes one reason=a database file has one owner; Redis shares rate limits alone")
            return None
        redis = connect(url)
        self._opened.push_async_callback(redis.aclose)
        self._nodes = Nodes(RedisLeases(redis, space), self.storage, self.metrics)
        self._opened.push_async_callback(self._nodes.close)
        bus = RedisBus(redis, space)
        self._supervisor.run("hear other nodes", bus.run)
        self._supervisor.run("divide what is followed", self._nodes.run)
        return Others(self._nodes, bus, self.storage, self._clock, self.metrics)

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


def _storage(config: StorageConfig) -> Storage:
    """The store that the configuration names; the driver of the other is never loaded."""
    if config.is_postgres:
        from marketd.storage.postgres import PostgresStorage

        return PostgresStorage(config.url)
    from marketd.storage.sqlite import SQLiteStorage

    return SQLiteStorage(config.sqlite_path)


def _tell(hearer: Hearer, change: Change | None) -> None:
    if change is not None:
        hearer.tell(change.series, change.span)


def _spare_what_stays() -> None:
    """Takes all that a start has made out of the garbage collector's way.

    Looking at it again, as each full collection would, holds the loop up for some 30 ms.
    """
    gc.collect()
    gc.freeze()
