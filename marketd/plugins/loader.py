"""Finds plugins among the installed packages and makes the configured providers of them.

A plugin that cannot be imported or registered, or a provider whose settings do not fit, is reported
and costs nothing but itself.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import orjson
import pluggy
from marshmallow import Schema, ValidationError

from marketd.clock import Clock
from marketd.config import ProviderConfig, UpstreamConfig
from marketd.domain.errors import ConfigError, NotReady, UnknownProvider
from marketd.metrics import Metrics
from marketd.plugins import hookspecs
from marketd.plugins.base import MarketPlugin, PluginContext
from marketd.plugins.provider import Limiter, Provider

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class PluginReport:
    """What became of one installed plugin: the provider plugins it brings, or why it brings none."""

    name: str
    package: str
    version: str
    provides: Sequence[str] = ()
    error: str = ""


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
        self._classes: dict[str, type[MarketPlugin]] = {}
        self._defaults: dict[str, ProviderConfig] = {}
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
        added = [one for one in self._defaults.values() if defaults and one.name not in configs]
        for config in (*configs.values(), *added):
            try:
                plugin = self._make(config)
            except ConfigError as error:
                log.error("provider failed provider=%s reason=%s", config.name, error.message)  # noqa: TRY400
                self.failed_providers[config.name] = error.message
                self._metrics.provider_up.labels(config.name).set(0)
            else:
                self.providers[config.name] = Provider(
                    config.name,
                    plugin,
                    upstream=self._upstream,
                    metrics=self._metrics,
                    limiter=self._limiter(_limit_key(config)),
                    rate_limit=config.rate_limit,
                )

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
        except (Exception, SystemExit) as error:
            if manager.has_plugin(entry.name):
                manager.unregister(name=entry.name)
            reason = f"{type(error).__name__}: {error}"
            return PluginReport(entry.name, package, version, error=reason)
        self._classes.update(classes)
        self._defaults.update(defaults)
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
