"""The sections of the configuration, each setting with its kind, default and help."""

# ruff: noqa: RUF009 - `setting` makes a dataclass field

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, is_dataclass
from pathlib import Path
from typing import Any, get_type_hints

from platformdirs import user_data_path

from marketd.config.kept import KeptConfig
from marketd.config.settings import (
    ByteCount,
    Millis,
    Setting,
    declared,
    duration,
    one_of,
    setting,
    size,
    whole,
)
from marketd.config.urls import DATABASE, HOST, POSTGRES, REDIS, SQLITE, without_password
from marketd.domain.errors import ConfigError
from marketd.domain.rate_limit import RateLimit

PROVIDERS = "providers"
BACKFILL = "backfill"


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """The HTTP server."""

    host: str = setting(HOST, "127.0.0.1", "The address to listen on.")
    port: int = setting(whole(0, 65535), 8710, "The port to listen on; 0 takes any that is free.")
    request_timeout: Millis = setting(
        duration(), "30s", "The longest that one read may take before it answers with the part it has."
    )
    max_body: ByteCount = setting(size(), "64KB", "The largest body that a request may have.")


@dataclass(frozen=True, slots=True)
class StorageConfig:
    """Where bars are kept."""

    url: str = setting(
        DATABASE,
        "",
        "sqlite:///file.db, postgresql://user:password@host:port/name, "
        "or empty for a file in the data folder.",
        is_secret=True,
    )

    @property
    def is_postgres(self) -> bool:
        """True if `url` is for a PostgreSQL server, as it is."""
        return self.url.startswith(POSTGRES)

    @property
    def sqlite_path(self) -> Path:
        """The database file, a relative one from the current folder; ConfigError if it is none."""
        if self.is_postgres:
            raise ConfigError("This works on a database file, and [storage] url names a server.")
        if not self.url:
            return user_data_path("marketd") / "marketd.db"
        return Path(self.url.removeprefix(SQLITE))

    def __str__(self) -> str:
        """Where bars are kept, for people: without a password."""
        return without_password(self.url) if self.is_postgres else str(self.sqlite_path)


@dataclass(frozen=True, slots=True)
class RedisConfig:
    """What several processes share: rate limits; over one PostgreSQL live series and bars, too."""

    url: str = setting(
        REDIS,
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
    max_message: ByteCount = setting(size(), "64KB", "The largest message that a client may send.")
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
    late: Millis = setting(
        duration(least="0ms"),
        "15m",
        "How long after its close a bar that was made of trades is revised by a trade that comes late.",
    )


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
    return [each for section, cls in sections().items() for each in declared(section, cls)]


def kept_settings() -> list[Setting]:
    """Every key of a `[[backfill]]`, in the order of their declaration."""
    return list(declared(BACKFILL, KeptConfig))


def sections() -> dict[str, type]:
    """Each section that is a table of settings, by its name."""
    return {
        name: cls
        for name, cls in get_type_hints(Config).items()
        if isinstance(cls, type) and is_dataclass(cls)
    }
