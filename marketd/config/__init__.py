"""What marketd can be told: typed sections, read from a TOML file and the environment.

`MARKETD_SERVER__PORT=9000` wins over `port` of `[server]`, and `MARKETD_PROVIDERS__SIM__SEED=2` over
`seed` of `[providers.sim]`: two underscores between the parts, which are lower case in the file. A
plugin's own setting is read from its variable as TOML (`2`, `true`, `["a"]`), and is text where it is
none; a credential is always text. A file `providers.alpaca.key` among systemd's credentials is the
credential `key` of `[providers.alpaca]`. No other room reads the environment.
"""

from marketd.config.example import example_toml
from marketd.config.kept import KeptConfig
from marketd.config.reading import load_config
from marketd.config.sections import (
    CacheConfig,
    Config,
    HistoryConfig,
    LogConfig,
    ProviderConfig,
    RedisConfig,
    ServerConfig,
    StorageConfig,
    StreamConfig,
    TicksConfig,
    UpstreamConfig,
    declared_settings,
    kept_settings,
)

__all__ = [
    "CacheConfig",
    "Config",
    "HistoryConfig",
    "KeptConfig",
    "LogConfig",
    "ProviderConfig",
    "RedisConfig",
    "ServerConfig",
    "StorageConfig",
    "StreamConfig",
    "TicksConfig",
    "UpstreamConfig",
    "declared_settings",
    "example_toml",
    "kept_settings",
    "load_config",
]
