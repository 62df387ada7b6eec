"""Finds plugins among the installed packages and makes the configured providers of them.

A plugin that cannot be imported or registered, or a provider whose settings do not fit, is reported
and costs nothing but itself.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.metadata import EntryPoint, entry_points
from typing import Any, NamedTuple

import orjson
import pluggy
from marshmallow import Schema, ValidationError

from marketd.clock import Clock
from marketd.config import ProviderConfig, UpstreamConfig
from marketd.domain.errors import ConfigError, NotReady, UnknownProvider
from marketd.metrics import Metrics
from marketd.plugins import hookspecs
from marketd.plugins.base import MarketPlugin, PluginContext
from marketd.plugins.extension import NAME, Extension, Route
from marketd.plugins.instance import Limiter, Source
from marketd.plugins.provider import Provider

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class PluginReport:
    """What became of one installed plugin: the provider plugins it brings, or why it brings none."""

    name: str
    package: str
    version: str
    provides: Sequence[str] = ()
    error: str = ""


class Extended(NamedTuple):
    """An extension, the name of the plugin that brings it, and the routes that it has declared."""

    plugin: str
    extension: Extension
    routes: Sequence[Route]


def installed() -> Sequence[EntryPoint]:
    """The entry points of the group `marketd` among the installed packages."""
    return tuple(entry_points(group=hookspecs.PROJECT))


class PluginLoader:
    """The plugins of this installation, and the providers that the configuration makes of them."""

    def __init__(
        self,
        *,
        clock: Clock,
        upstream: UpstreamConfig,
        metrics: Metrics,
        limiter: Callable[[str], Limiter],
        found: Callable[[], Iterable[EntryPoint]] = installed,
    ) -> None:
        self.reports: list[PluginReport] = []
        self.providers: dict[str, Provider] = {}
        self.failed_providers: dict[str, str] = {}
        self.extensions: list[Extended] = []
        self._classes: dict[str, type[MarketPlugin]] = {}
        self._defaults: dict[str, ProviderConfig] = {}
        self._configs: dict[str, ProviderConfig] = {}
        self._former: dict[str, Provider] = {}
        self._clock = clock
        self._upstream = upstream
        self._metrics = metrics
        self._limiter = limiter
        self._found = found

    def load(self, configs: Mapping[str, ProviderConfig], *, defaults: bool = False) -> None:
        """Imports every installed plugin, then makes each configured provider; raises nothing.

        With `defaults`, also those that a plugin wants where the configuration names none.
        """
        manager = pluggy.PluginManager(hookspecs.PROJECT)
        manager.add_hookspecs(hookspecs)
        for entry in self._found():
            self.reports.append(self._register(manager, entry))
        failed = [report for report in self.reports if report.error]
        for report in failed:
            log.error("plugin failed plugin=%s reason=%s", report.name, report.error)
        self._metrics.plugins_failed.set(len(failed))
        for name, config in self._wanted(configs, defaults=defaults).items():
            self._configs[name] = config
            try:
                self.providers[name] = Provider(
                    name, self._source(config), upstream=self._upstream, metrics=self._metrics
                )
            except ConfigError as error:
                log.error("provider failed provider=%s reason=%s", name, error.message)  # noqa: TRY400
                self.failed_providers[name] = error.message
                self._metrics.provider_up.labels(name).set(0)

    async def reload(self, configs: Mapping[str, ProviderConfig], *, defaults: bool = False) -> set[str]:
        """Sets up what is new or different, gives up what is gone, and gives the names of both.

        What is as it was goes on untouched. Raises ConfigError, with nothing changed, if one of the new
        or different ones cannot be set up. Returns when former plugins are closed.
        """
        wanted = self._wanted(configs, defaults=defaults)
        changed = {name: one for name, one in wanted.items() if self._configs.get(name) != one}
        problems = []
        for config in changed.values():
            try:
                self._make(config)
            except ConfigError as error:
                problems.append(error.message)
        if problems:
            raise ConfigError("\n".join(problems))
        gone = self._configs.keys() - wanted.keys()
        self._configs = wanted
        endings = [self._take_away(name) for name in gone]
        endings += [self._put(name, self._source(config)) for name, config in changed.items()]
        await asyncio.gather(*endings)
        return gone | changed.keys()

    def plugins_of(
        self, configs: Mapping[str, ProviderConfig], *, defaults: bool = False
    ) -> dict[str, type[MarketPlugin] | None]:
        """The plugin of every provider that there would be; None where it is not installed."""
        wanted = self._wanted(configs, defaults=defaults)
        return {name: self._classes.get(config.plugin) for name, config in wanted.items()}

    async def close_idle(self, idle_s: float) -> None:
        """Closes the plugin of every provider that nobody has needed for so long."""
        await asyncio.gather(*(one.close_if_idle(idle_s) for one in self.providers.values()))

    async def close(self) -> None:
        """Closes every plugin."""
        await asyncio.gather(*(provider.close() for provider in self.providers.values()))

    def provider(self, name: str) -> Provider:
        """The provider that the configuration calls `name`.

        UnknownProvider if it calls none so, NotReady if that one could not be set up.
        """
        if name in self.failed_providers:
            raise NotReady(f"The provider {name} could not be set up: {self.failed_providers[name]}")
        if name not in self.providers:
            raise UnknownProvider(f"There is no provider {name[:50]}.")
        return self.providers[name]

    def get_all_markets(self) -> dict[str, list[str]]:
        """Every market, with the names of the providers that serve it, both in order."""
        markets: dict[str, list[str]] = {}
        for name, provider in sorted(self.providers.items()):
            for market in provider.plugin.markets:
                markets.setdefault(market, []).append(name)
        return dict(sorted(markets.items()))

    def _wanted(
        self, configs: Mapping[str, ProviderConfig], *, defaults: bool
    ) -> dict[str, ProviderConfig]:
        added = self._defaults if defaults else {}
        return {**configs, **{name: one for name, one in added.items() if name not in configs}}

    def _source(self, config: ProviderConfig) -> Source:
        limiter = self._limiter(_limit_key(config))
        return Source(partial(self._make, config), limiter, config.rate_limit)

    async def _take_away(self, name: str) -> None:
        self.failed_providers.pop(name, None)
        provider = self.providers.pop(name, None)
        if provider is not None:
            self._former[name] = provider
            await provider.remove()

    async def _put(self, name: str, source: Source) -> None:
        self.failed_providers.pop(name, None)
        # Whoever follows a series of a former one by this name still holds that very provider.
        known = self.providers.get(name) or self._former.pop(name, None)
        if known is None:
            self.providers[name] = Provider(name, source, upstream=self._upstream, metrics=self._metrics)
        else:
            self.providers[name] = known
            await known.replace(source)

    def _register(self, manager: pluggy.PluginManager, entry: EntryPoint) -> PluginReport:
        package, version = (entry.dist.name, entry.dist.version) if entry.dist else ("", "")
        report = PluginReport(entry.name, package, version)
        # A plugin is somebody else's code: whatever it raises, sys.exit() included, is its own loss.
        try:
            module = entry.load()
            manager.register(module, name=entry.name)
            manager.check_pending()
            classes = self._classes_of(manager, module)
            defaults = self._defaults_of(manager, module)
            extensions = _extensions_of(manager, module, entry.name)
        except (Exception, SystemExit) as error:
            if manager.has_plugin(entry.name):
                manager.unregister(name=entry.name)
            reason = f"{type(error).__name__}: {error}"
            return PluginReport(entry.name, package, version, error=reason)
        self._classes.update(classes)
        self._defaults.update(defaults)
        self.extensions += extensions
        return PluginReport(report.name, package, version, provides=tuple(sorted(classes)))

    def _classes_of(
        self, manager: pluggy.PluginManager, module: object
    ) -> dict[str, type[MarketPlugin]]:
        classes: dict[str, type[MarketPlugin]] = {}
        for declared in _declared(manager.hook.marketd_providers, module):
            if not isinstance(declared, Sequence):
                raise TypeError("marketd_providers() has to return a sequence of classes")
            for cls in declared:
                if not (isinstance(cls, type) and issubclass(cls, MarketPlugin)):
                    raise TypeError(f"{cls!r} is not a MarketPlugin class")
                if cls.plugin in self._classes or cls.plugin in classes:
                    raise ValueError(f"the provider plugin {cls.plugin!r} is registered twice")
                classes[cls.plugin] = cls
        return classes

    def _defaults_of(self, manager: pluggy.PluginManager, module: object) -> dict[str, ProviderConfig]:
        defaults: dict[str, ProviderConfig] = {}
        for declared in _declared(manager.hook.marketd_default_providers, module):
            for name, table in dict(declared).items():
                settings = dict(table)
                defaults[name] = ProviderConfig(name, settings.pop("plugin"), settings)
        return defaults

    def _make(self, config: ProviderConfig) -> MarketPlugin:
        where = f"providers.{config.name}"
        cls = self._classes.get(config.plugin)
        if cls is None:
            known = ", ".join(sorted(self._classes)) or "none"
            raise ConfigError(
                f"{where}.plugin: {config.plugin!r} is not installed; installed are {known}."
            )
        context = PluginContext(
            config.name,
            self._clock,
            _load(cls.settings_schema, config.settings, where),
            _load(cls.credentials_schema, config.credentials, f"{where}.credentials"),
        )
        try:
            return cls(context)
        except ConfigError:
            raise
        except Exception as error:
            raise ConfigError(f"{where}: the plugin raised {type(error).__name__}.") from error


def _declared(hook: pluggy.HookCaller, module: object) -> Iterator[Any]:
    """What `module` itself says when the hook is called."""
    for impl in hook.get_hookimpls():
        if impl.plugin is module:
            yield impl.function()


def _extensions_of(manager: pluggy.PluginManager, module: object, plugin: str) -> list[Extended]:
    extended: list[Extended] = []
    paths: set[str] = set()
    for declared in _declared(manager.hook.marketd_extensions, module):
        for extension in declared:
            if not isinstance(extension, Extension):
                raise TypeError(f"{extension!r} is not an Extension")
            routes = tuple(extension.routes())
            if not all(isinstance(route, Route) for route in routes):
                raise TypeError("routes() has to return Route objects")
            if routes and not NAME.fullmatch(plugin):
                raise ValueError("routes need an entry point whose name is of a-z, 0-9, _ and -")
            for route in routes:
                if route.path in paths:
                    raise ValueError(f"the route {route.path!r} is there twice")
                paths.add(route.path)
            extended.append(Extended(plugin, extension, routes))
    return extended


def _limit_key(config: ProviderConfig) -> str:
    """Who shares a rate limit: the providers of one plugin with the same credentials.

    Without credentials each has its own. No secret can be read from the key.
    """
    secret = orjson.dumps(config.credentials or config.name, default=str, option=orjson.OPT_SORT_KEYS)
    return f"{config.plugin}:{hashlib.sha256(secret).hexdigest()[:32]}"


def _load(schema: type[Schema], values: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    try:
        loaded: Mapping[str, Any] = schema().load(values)
    except ValidationError as error:
        problems = "; ".join(
            f"{where}.{key}: {' '.join(map(str, reasons)) if isinstance(reasons, list) else reasons}"
            for key, reasons in error.messages_dict.items()
        )
        raise ConfigError(problems) from None
    return loaded
