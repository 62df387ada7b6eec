"""The settings as they are read: from a TOML file, then from the environment, which wins."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from marketd.config.kept import KeptConfig, read_kept
from marketd.config.sections import (
    BACKFILL,
    PROVIDERS,
    Config,
    ProviderConfig,
    declared_settings,
    sections,
)
from marketd.config.settings import Kind, bare, parse_rate, shown, toml_value, unknown, unlike
from marketd.domain.errors import ConfigError
from marketd.domain.rate_limit import RateLimit
from marketd.secret_files import secret_files

_PREFIX = "MARKETD_"
_PROVIDER_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")
_WRONG_NAME = "wanted a name of a-z, 0-9, _ and -, at most 32 characters, the first a letter or digit."


def load_config(path: Path | None, environ: Mapping[str, str]) -> Config:
    """The defaults, changed by the TOML file at `path` if there is one, changed by `environ`.

    Raises ConfigError with everything that is wrong, one line each; no line holds a secret.
    """
    reading = _Reading()
    if path is not None:
        reading.take_file(_document(path))
    reading.take_environment(environ)
    return reading.config()


def _document(path: Path) -> Mapping[str, Any]:
    try:
        content = path.read_bytes()
        return tomllib.loads(content.decode())
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}.") from error
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise ConfigError(f"{path}: not TOML: no UTF-8 text (at line {line}).") from None
    except ValueError as error:
        line = content.count(b"\n") + 1
        reason = str(error).replace("at end of document", f"at line {line}, the end")
        raise ConfigError(f"{path}: not TOML: {reason}.") from None


class _Reading:
    """A configuration as it comes together, and what is wrong with it."""

    def __init__(self) -> None:
        self._problems: list[str] = []
        self._kinds: dict[str, dict[str, Kind[Any]]] = {section: {} for section in sections()}
        for each in declared_settings():
            self._kinds[each.section][each.key] = each.kind
        self._values: dict[str, dict[str, Any]] = {section: {} for section in self._kinds}
        self._providers: dict[str, dict[str, Any]] = {}
        self._kept: Sequence[KeptConfig] = ()
        self._plugins_may_add = False

    def take_file(self, document: Mapping[str, Any]) -> None:
        """A TOML file's tables."""
        for section, table in document.items():
            if section == BACKFILL:
                self._kept = read_kept(table, self._refuse)
            elif section not in (*self._kinds, PROVIDERS):
                missed = (section, "") if isinstance(table, dict) else ("", section)
                self._refuse_unknown(bare(section), *missed)
            elif not isinstance(table, dict):
                self._refuse(section, f"saw no table, wanted [{section}].")
            elif section == PROVIDERS:
                self._take_providers(table)
            else:
                for key, value in table.items():
                    self._take(f"{section}.{bare(key)}", section, key, value)

    def take_environment(self, environ: Mapping[str, str]) -> None:
        """The variables with two underscores after the prefix; they win over what a file said."""
        of_providers: list[tuple[str, list[str]]] = []
        for variable in sorted(environ):
            section, separator, key = variable.removeprefix(_PREFIX).lower().partition("__")
            if not variable.startswith(_PREFIX) or not separator:
                continue
            if section == PROVIDERS:
                of_providers.append((variable, key.split("__")))
            else:
                where = f"{bare(section)}.{bare(key)} ({bare(variable)})"
                self._take(where, section, key, environ[variable], from_environment=True)
        named = [path[0] for _, path in of_providers if path[1:] == ["plugin"]]
        if not self._providers and not named:
            self._plugins_may_add = True
            for default in Config().providers.values():
                self._providers[default.name] = {"plugin": default.plugin, **default.settings}
        if folder := environ.get("CREDENTIALS_DIRECTORY"):
            for secret in secret_files(Path(folder)):
                path = [secret.provider, "credentials", secret.key]
                self._override(bare(secret.name), path, secret.text, named)
        for variable, path in of_providers:
            self._override(bare(variable), path, environ[variable], named)

    def config(self) -> Config:
        """What came together; ConfigError if anything of it was wrong."""
        providers = {name: self._provider(name, table) for name, table in self._providers.items()}
        if self._problems:
            raise ConfigError("\n".join(self._problems))
        return Config(
            **{section: cls(**self._values[section]) for section, cls in sections().items()},
            providers=providers,
            backfill=self._kept,
            plugins_may_add=self._plugins_may_add,
        )

    def _refuse(self, where: str, why: str) -> None:
        self._problems.append(f"{where}: {why}")

    def _refuse_unknown(self, where: str, section: str, key: str) -> None:
        known = {one: list(kinds) for one, kinds in self._kinds.items()}
        self._refuse(where, unknown(section, key, known | {PROVIDERS: [], BACKFILL: []}))

    def _take(
        self, where: str, section: str, key: str, value: Any, *, from_environment: bool = False
    ) -> None:
        kind = self._kinds.get(section, {}).get(key)
        if kind is None:
            return self._refuse_unknown(where, section, key)
        try:
            self._values[section][key] = kind.read_text(value) if from_environment else kind.read(value)
        except ValueError:
            self._refuse(where, f"saw {shown(value)}, wanted {kind.wanted}.")

    def _take_providers(self, tables: Mapping[str, Any]) -> None:
        for name, table in tables.items():
            where = f"{PROVIDERS}.{bare(name)}"
            if not _PROVIDER_NAME.fullmatch(name):
                self._refuse(where, _WRONG_NAME)
            elif not isinstance(table, dict):
                # What is there instead stays untold: it may be a secret in the wrong place.
                self._refuse(where, f"saw no table, wanted [{where}].")
            else:
                self._providers[name] = table

    def _override(self, where: str, path: Sequence[str], text: str, named: Sequence[str]) -> None:
        """One value of a provider: `path` is its name and keys, `named` are those that may be new."""
        name, *keys = path
        if not all(path) or not keys:
            return self._refuse(where, f"unknown, wanted {_PREFIX}PROVIDERS__<NAME>__<KEY>.")
        if name not in self._providers:
            # A variable's name has no hyphen; a provider's may.
            name = next((one for one in self._providers if one.replace("-", "_") == name), name)
        known = [*self._providers, *named]
        if name not in known:
            return self._refuse(where, f"no such provider{unlike(name, known)}")
        if not _PROVIDER_NAME.fullmatch(name):
            return self._refuse(where, _WRONG_NAME)
        table = self._providers.setdefault(name, {})
        for key in keys[:-1]:
            table = table.setdefault(key, {})
            if not isinstance(table, dict):
                return self._refuse(where, f"{bare(key)} is no table, so that nothing can be in it.")
        # A secret is text, even where it looks like a number.
        table[keys[-1]] = text if len(keys) > 1 and keys[0] == "credentials" else toml_value(text)
        return None

    def _provider(self, name: str, table: Mapping[str, Any]) -> ProviderConfig:
        where = f"{PROVIDERS}.{name}"
        settings = dict(table)
        plugin = settings.pop("plugin", None)
        credentials = settings.pop("credentials", {})
        rate = settings.pop("rate_limit", None)
        if not isinstance(plugin, str) or not plugin:
            saw = "none" if plugin is None else shown(plugin)
            self._refuse(f"{where}.plugin", f'saw {saw}, wanted the name of a plugin, such as "sim".')
        if not isinstance(credentials, dict):
            self._refuse(f"{where}.credentials", f"saw no table, wanted [{where}.credentials].")
        limit: RateLimit | None = None
        if rate is not None:
            try:
                limit = parse_rate(rate)
            except ValueError as error:
                self._refuse(f"{where}.rate_limit", f"saw {shown(rate)}, wanted {error}.")
        return ProviderConfig(name, str(plugin), settings, credentials, limit)
