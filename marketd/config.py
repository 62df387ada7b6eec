"""What marketd can be told: typed sections, read from a TOML file and the environment.

`MARKETD_SERVER__PORT=9000` wins over `port` of `[server]`, and `MARKETD_PROVIDERS__SIM__SEED=2` over
`seed` of `[providers.sim]`: two underscores between the parts, which are lower case in the file. A
plugin's own setting is read from its variable as TOML (`2`, `true`, `["a"]`), and is text where it is
none; a credential is always text. A file `providers.alpaca.key` among systemd's credentials is the
credential `key` of `[providers.alpaca]`. No other file reads the environment.
"""

# ruff: noqa: RUF009 - `setting` makes a dataclass field

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, is_dataclass, replace
from pathlib import Path
from typing import Any, get_type_hints
from urllib.parse import parse_qs, urlsplit

from platformdirs import user_data_path

from marketd.domain.errors import ConfigError
from marketd.domain.rate_limit import RateLimit
from marketd.kept import KeptConfig, read_kept
from marketd.secret_files import secret_files
from marketd.settings import (
    ByteCount,
    Kind,
    Millis,
    Setting,
    bare,
    declared,
    duration,
    one_of,
    parse_rate,
    setting,
    shown,
    size,
    text,
    toml_value,
    unknown,
    unlike,
    whole,
)

_PREFIX = "MARKETD_"
_PROVIDERS = "providers"
_BACKFILL = "backfill"
_PROVIDER_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,31}")
_HOST = re.compile(r"[\w.:%-]+")
_SQLITE = "sqlite:///"
_REDIS = re.compile(
    r"rediss?://([^\s/?#@]*@)?([\w.-]+|\[[0-9A-Fa-f:.]+\])(:(?P<port>[0-9]{1,5}))?(/[0-9]{0,5})?"
    r"|unix://([^\s/?#@]*@)?/[^\s?#]+(\?db=[0-9]{1,5})?",
    re.ASCII,
)
_POSTGRES = "postgresql://"
_PASSWORD = re.compile(r"^(postgresql://[^/?#@:]*:)[^/?#]*@")
_DATABASE = (
    "a database URL; known are sqlite:///relative.db, sqlite:////absolute/path.db "
    "and postgresql://user:password@host:port/name (what is not of A-Z, a-z, 0-9 and ._- in a password "
    "is written as %XX)"
)
_WRONG_NAME = "wanted a name of a-z, 0-9, _ and -, at most 32 characters, the first a letter or digit."


def _is_host(host: str) -> bool:
    try:
        # What a look-up would do first, with a ValueError for a label too long or empty.
        host.encode("idna")
    except ValueError:
        return False
    return _HOST.fullmatch(host) is not None


def _is_database(url: str) -> bool:
    if not url.isprintable():
        return False
    if url.startswith(_POSTGRES):
        return _is_postgres(url)
    path = url.removeprefix(_SQLITE)
    if path == url:
        return url == ""
    # Neither SQLAlchemy's ":memory:" and "?options", nor a folder that is really called "~".
    return "?" not in path and Path(path).name != "" and path[0] not in ":~"


def _is_postgres(url: str) -> bool:
    try:
        parts = urlsplit(url)
        options = parse_qs(parts.query, strict_parsing=bool(parts.query))
        has_port = parts.port != 0
    except ValueError:
        # Among others for a password with a character that has to be quoted.
        return False
    # A password has one place, so that there is one to hide it in.
    return has_port and len(parts.path) > 1 and not parts.fragment and "password" not in options


def _without_password(url: str) -> str:
    return _PASSWORD.sub(r"\1…@", url)


def _is_redis(url: str) -> bool:
    match = _REDIS.fullmatch(url)
    return url == "" or (match is not None and 0 < int(match["port"] or 6379) < 65536)


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """The HTTP server."""

    host: str = setting(
        text("a host name or an IP address", _is_host), "127.0.0.1", "The address to listen on."
    )
    port: int = setting(whole(0, 65535), 8710, "The port to listen on; 0 takes any that is free.")
    request_timeout: Millis = setting(
        duration(), "30s", "The longest that one read may take before it answers with the part it has."
    )
    max_body: ByteCount = setting(size(), "64KB", "The largest body that a request may have.")


@dataclass(frozen=True, slots=True)
class StorageConfig:
    """Where bars are kept."""

    url: str = setting(
        replace(text(_DATABASE, _is_database), format=_without_password),
        "",
        "sqlite:///file.db, postgresql://user:password@host:port/name, "
        "or empty for a file in the data folder.",
        is_secret=True,
    )

    @property
    def is_postgres(self) -> bool:
        """True if `url` is for a PostgreSQL server, as it is."""
        return self.url.startswith(_POSTGRES)

    @property
    def sqlite_path(self) -> Path:
        """The database file, a relative one from the current folder; ConfigError if it is none."""
        if self.is_postgres:
            raise ConfigError("This works on a database file, and [storage] url names a server.")
        if not self.url:
            return user_data_path("marketd") / "marketd.db"
        return Path(self.url.removeprefix(_SQLITE))

    def __str__(self) -> str:
        """Where bars are kept, for people: without a password."""
        return _without_password(self.url) if self.is_postgres else str(self.sqlite_path)


@dataclass(frozen=True, slots=True)
class RedisConfig:
    """What several processes share: rate limits; over one PostgreSQL live series and bars, too."""

    url: str = setting(
        text("a Redis URL, redis://host:port/db, rediss://… (TLS) or unix:///path", _is_redis),
        "",
        "redis://[user:password@]host:port/db, rediss://… (TLS) or unix:///path; empty for none.",
        is_secret=True,
    )


@dataclass(frozen=True, slots=True)
class CacheConfig:
    """Bars kept near at hand, beside the database."""

    memory: ByteCount = setting(
        size(), "32MB", "The most memory that bars asked for again and again may take."
    )


@dataclass(frozen=True, slots=True)
class UpstreamConfig:
    """The calls that are made to providers."""

    timeout: Millis = setting(duration(), "10s", "The longest that one call to a provider may take.")
    retries: int = setting(
        whole(0, 10), 3, "How often a call that failed is tried again, where that may help."
    )
    symbols_ttl: Millis = setting(
        duration(), "1h", "How old a provider's list of symbols may be before it is asked for again."
    )
    idle: Millis = setting(
        duration(),
        "15m",
        "How long a provider that nobody uses stays open; the next use opens it again.",
    )


@dataclass(frozen=True, slots=True)
class HistoryConfig:
    """Reads of the past."""

    depth: Millis = setting(
        duration(), "10y", "How far back history is looked for when a request does not say since when."
    )


@dataclass(frozen=True, slots=True)
class StreamConfig:
    """WebSocket clients, and the providers' streams behind them."""

    heartbeat: Millis = setting(duration(), "20s", "How often a client is pinged.")
    outbox: ByteCount = setting(size(), "1MB", "How much may wait for one client before it is cut.")
    patience: Millis = setting(
        duration(), "5s", "How long a client may take nothing of what waits for it before it is cut."
    )
    max_clients: int = setting(whole(1, 10_000_000), 10_000, "The most clients at once.")
    max_clients_per_address: int = setting(
        whole(1, 10_000_000),
        1000,
        "The most clients from one address; behind a proxy all of them come from its address.",
    )
    max_streams: int = setting(
        whole(1, 10_000_000), 10_000, "The most different streams that all clients together follow."
    )
    max_subscriptions: int = setting(whole(1, 1_000_000), 1000, "The most streams of one client.")
    max_symbols: int = setting(whole(1, 1_000_000), 100, "The most symbols in one subscribe message.")
    max_rate: int = setting(
        whole(1, 1_000_000),
        100,
        "The most messages a second that a client may send, on average over ten seconds.",
    )
    max_message: ByteCount = setting(size(), "1MB", "The largest message that a client may send.")
    stall: Millis = setting(
        duration(),
        "30s",
        "How long a provider's stream may say nothing before its history is asked whether it is mute.",
    )
    linger: Millis = setting(
        duration(least="0ms"), "10s", "How long a provider's stream is kept after its last client left."
    )
    ring: int = setting(
        whole(0, 100_000),
        200,
        "How many bars, corrections and gaps of each stream are kept for clients that come back.",
    )


@dataclass(frozen=True, slots=True)
class TicksConfig:
    """Trades."""

    keep: Millis = setting(duration(least="1s"), "1w", "How long a trade is kept.")


@dataclass(frozen=True, slots=True)
class LogConfig:
    """The log, on standard error."""

    level: str = setting(
        one_of("debug", "info", "warning", "error"), "info", "Messages below this level are not logged."
    )
    format: str = setting(one_of("text", "json"), "text", "key=value lines, or one JSON object a line.")


@dataclass(frozen=True, slots=True)
class ProviderConfig:
    """One `[providers.<name>]`: which plugin it is made of, and what that plugin is told.

    `settings` and `credentials` are as they were written, for the plugin's own schemas to check. Neither
    is part of the repr: the credentials are secret, and a setting may be a URL with a password.
    `rate_limit` replaces the one that the plugin declares.
    """

    name: str
    plugin: str
    settings: Mapping[str, Any] = field(default_factory=dict, repr=False)
    credentials: Mapping[str, Any] = field(default_factory=dict, repr=False)
    rate_limit: RateLimit | None = None


def _simulated() -> Mapping[str, ProviderConfig]:
    return {"sim": ProviderConfig("sim", "sim", {"seed": 1})}


@dataclass(frozen=True, slots=True)
class Config:
    """Everything that marketd is told, with defaults for what is not.

    `plugins_may_add` where no provider is named: then plugins add theirs to the default one.
    """

    server: ServerConfig = field(default_factory=ServerConfig)
    storage: StorageConfig = field(default_factory=StorageConfig)
    redis: RedisConfig = field(default_factory=RedisConfig)
    cache: CacheConfig = field(default_factory=CacheConfig)
    upstream: UpstreamConfig = field(default_factory=UpstreamConfig)
    history: HistoryConfig = field(default_factory=HistoryConfig)
    stream: StreamConfig = field(default_factory=StreamConfig)
    ticks: TicksConfig = field(default_factory=TicksConfig)
    log: LogConfig = field(default_factory=LogConfig)
    providers: Mapping[str, ProviderConfig] = field(default_factory=_simulated)
    backfill: Sequence[KeptConfig] = ()
    plugins_may_add: bool = False


def declared_settings() -> list[Setting]:
    """Every setting of every section but the providers', in the order of their declaration."""
    return [each for section, cls in _sections().items() for each in declared(section, cls)]


def kept_settings() -> list[Setting]:
    """Every key of a `[[backfill]]`, in the order of their declaration."""
    return list(declared(_BACKFILL, KeptConfig))


def load_config(path: Path | None, environ: Mapping[str, str]) -> Config:
    """The defaults, changed by the TOML file at `path` if there is one, changed by `environ`.

    Raises ConfigError with everything that is wrong, one line each; no line holds a secret.
    """
    reading = _Reading()
    if path is not None:
        reading.take_file(_document(path))
    reading.take_environment(environ)
    return reading.config()


def example_toml() -> str:
    """A configuration file with every setting commented out, at its default and with its help."""
    lines = [
        "# The settings of marketd, each with its default. Remove the # before a setting to change it.",
        '# A duration has a unit, "30s": ms, s, m (minute), h, d, w (7 days), y (365 days).',
        '# A size has one too, "64KB": B, KB (1024 bytes), MB, GB.',
        "# An environment variable wins over the file: MARKETD_SERVER__PORT=9000 for port of [server].",
    ]
    for section, cls in _sections().items():
        lines += ["", f"# {cls.__doc__}", f"[{section}]"]
        for each in declared(section, cls):
            lines += [f"# {each.help} ({each.type})", f"#{each.key} = {each.default}"]
    lines += [
        "",
        "# Where data comes from: a table for each provider, under any name of a-z, 0-9, _ and -, with",
        "# its plugin and the plugin's own settings. Secrets go to [providers.<name>.credentials], and",
        '# rate_limit, "10/s" or "300/5m", replaces what the plugin says that the provider allows.',
        "# Without any provider there is this one, and what installed plugins add to it:",
        "#[providers.sim]",
        '#plugin = "sim"',
        "#seed = 1",
        "",
        "# Instruments whose history is kept filled and repaired: a [[backfill]] for each list of them.",
        "# Such as, with the defaults of what may be left out:",
        "#   [[backfill]]",
        '#   provider = "sim"',
        '#   market = "crypto"',
        '#   symbols = ["BTC/USD", "ETH/USD"]',
        '#   timeframe = "1m"',
    ]
    lines += [f"#   {each.key} = {each.default}" for each in kept_settings() if each.default]
    return "\n".join(lines) + "\n"


def _sections() -> dict[str, type]:
    return {
        name: cls
        for name, cls in get_type_hints(Config).items()
        if isinstance(cls, type) and is_dataclass(cls)
    }


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
        self._kinds: dict[str, dict[str, Kind[Any]]] = {section: {} for section in _sections()}
        for each in declared_settings():
            self._kinds[each.section][each.key] = each.kind
        self._values: dict[str, dict[str, Any]] = {section: {} for section in self._kinds}
        self._providers: dict[str, dict[str, Any]] = {}
        self._kept: Sequence[KeptConfig] = ()
        self._plugins_may_add = False

    def take_file(self, document: Mapping[str, Any]) -> None:
        """A TOML file's tables."""
        for section, table in document.items():
            if section == _BACKFILL:
                self._kept = read_kept(table, self._refuse)
            elif section not in (*self._kinds, _PROVIDERS):
                missed = (section, "") if isinstance(table, dict) else ("", section)
                self._refuse_unknown(bare(section), *missed)
            elif not isinstance(table, dict):
                self._refuse(section, f"saw no table, wanted [{section}].")
            elif section == _PROVIDERS:
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
            if section == _PROVIDERS:
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
        sections = {section: cls(**self._values[section]) for section, cls in _sections().items()}
        return Config(
            **sections,
            providers=providers,
            backfill=self._kept,
            plugins_may_add=self._plugins_may_add,
        )

    def _refuse(self, where: str, why: str) -> None:
        self._problems.append(f"{where}: {why}")

    def _refuse_unknown(self, where: str, section: str, key: str) -> None:
        known = {one: list(kinds) for one, kinds in self._kinds.items()}
        self._refuse(where, unknown(section, key, known | {_PROVIDERS: [], _BACKFILL: []}))

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
            where = f"{_PROVIDERS}.{bare(name)}"
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
        where = f"{_PROVIDERS}.{name}"
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
