from __future__ import annotations

import dataclasses
import json
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from marketd.config import (
    Config,
    ProviderConfig,
    StorageConfig,
    declared_settings,
    example_toml,
    kept_settings,
    load_config,
)
from marketd.config.kept import KeptConfig
from marketd.config.settings import Setting
from marketd.domain.errors import ConfigError
from marketd.domain.rate_limit import RateLimit
from marketd.domain.timeframe import Timeframe

ROOT = Path(__file__).resolve().parents[1]
DAY_MS = 86_400_000

every_setting = pytest.mark.parametrize("setting", declared_settings(), ids=lambda setting: setting.name)

# A text has no other value that is right for all of them: a new one belongs here.
OTHER_TEXTS = {
    "server.host": "example.org",
    "storage.url": "sqlite:///other.db",
    "redis.url": "redis://:secret@cache:6380/1",
}


class Written:
    """Configuration files of one test."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "marketd.toml"

    def load(self, content: str, environ: Mapping[str, str] | None = None) -> Config:
        self.path.write_text(content)
        return load_config(self.path, environ or {})

    def problems(self, content: str) -> list[str]:
        with pytest.raises(ConfigError) as caught:
            self.load(content)
        return caught.value.message.splitlines()


@pytest.fixture
def file(tmp_path: Path) -> Written:
    return Written(tmp_path)


def refused(environ: Mapping[str, str]) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        load_config(None, environ)
    return caught.value.message.splitlines()


def other(setting: Setting) -> tuple[str, Any]:
    """A value that is not the default: as the text of a variable, and as the configuration has it."""
    match setting.type:
        case "text":
            return OTHER_TEXTS[setting.name], OTHER_TEXTS[setting.name]
        case "whole number":
            return str(int(setting.default) + 1), int(setting.default) + 1
        case "duration":
            return "7s", 7000
        case "size":
            return "7KB", 7 * 1024
        case words:
            word = next(word for word in re.findall(r'"\w+"', words) if word != setting.default)
            return json.loads(word), json.loads(word)


def as_toml(setting: Setting, text: str) -> str:
    value = text if setting.type == "whole number" else json.dumps(text)
    return f"[{setting.section}]\n{setting.key} = {value}\n"


def variable(setting: Setting) -> str:
    return f"MARKETD_{setting.section}__{setting.key}".upper()


def value_of(config: Config, setting: Setting) -> Any:
    return getattr(getattr(config, setting.section), setting.key)


class TestSettings:
    def test_without_a_file_and_variables_everything_has_its_default(self) -> None:
        assert load_config(None, {}) == Config(plugins_may_add=True)

    def test_history_is_looked_for_ten_years_back_by_default(self) -> None:
        assert load_config(None, {}).history.depth == 10 * 365 * DAY_MS

    def test_only_this_machine_is_listened_to_by_default(self) -> None:
        assert load_config(None, {}).server.host == "127.0.0.1"

    @every_setting
    def test_every_setting_can_be_set_in_the_file(self, setting: Setting, file: Written) -> None:
        text, value = other(setting)
        config = file.load(as_toml(setting, text))
        assert value_of(config, setting) == value != value_of(Config(), setting)
        assert type(value_of(config, setting)) is type(value)

    @every_setting
    def test_every_setting_can_be_set_in_the_environment(self, setting: Setting) -> None:
        text, value = other(setting)
        config = load_config(None, {variable(setting): text})
        assert value_of(config, setting) == value != value_of(Config(), setting)
        assert type(value_of(config, setting)) is type(value)

    @every_setting
    def test_setting_one_leaves_the_others_alone(self, setting: Setting, file: Written) -> None:
        config = file.load(as_toml(setting, other(setting)[0]))
        for one in declared_settings():
            assert (value_of(config, one) == value_of(Config(), one)) is (one != setting)

    @every_setting
    def test_the_environment_wins_over_the_file(self, setting: Setting, file: Written) -> None:
        text, value = other(setting)
        default = setting.kind.format(value_of(Config(), setting))
        assert (
            value_of(file.load(as_toml(setting, default), {variable(setting): text}), setting) == value
        )
        assert (
            value_of(file.load(as_toml(setting, text), {variable(setting): default}), setting) != value
        )

    @every_setting
    def test_a_value_of_another_type_is_refused_by_name(self, setting: Setting, file: Written) -> None:
        for wrong in ("true", "1.5", "[1]", "{a = 1}", "1979-05-27", '""', '"\\u0000"'):
            if tomllib.loads(f"x = {wrong}")["x"] == value_of(Config(), setting):
                continue
            (line,) = file.problems(f"[{setting.section}]\n{setting.key} = {wrong}\n")
            assert line.startswith(f"{setting.name}: saw ")
            assert line.endswith(f", wanted {setting.kind.wanted}.")

    @every_setting
    def test_every_setting_has_one_sentence_of_help(self, setting: Setting) -> None:
        assert re.fullmatch(r"[^\n]{10,110}\.", setting.help)

    def test_no_setting_is_declared_twice(self) -> None:
        names = [setting.name for setting in declared_settings()]
        assert len(set(names)) == len(names)

    def test_a_configuration_cannot_be_changed(self) -> None:
        with pytest.raises(dataclasses.FrozenInstanceError):
            Config().server.port = 1  # type: ignore[misc]

    def test_variables_without_two_underscores_are_no_settings(self) -> None:
        environ = {"MARKETD_RECORDINGS": "x", "MARKETD_": "x", "SERVER__PORT": "x", "XMARKETD_A__B": "x"}
        assert load_config(None, environ) == Config(plugins_may_add=True)


class TestExample:
    def test_the_example_file_is_what_the_declarations_say(self) -> None:
        assert (ROOT / "config.example.toml").read_text() == example_toml()

    def test_the_example_changes_nothing(self) -> None:
        assert load_config(ROOT / "config.example.toml", {}) == Config(plugins_may_add=True)

    def test_the_example_with_every_comment_sign_removed_changes_nothing(self, file: Written) -> None:
        everything = re.sub(r"(?m)^#(?! )", "", example_toml())
        assert tomllib.loads(everything).keys() == {
            field.name for field in dataclasses.fields(Config)
        } - {"backfill", "plugins_may_add"}
        assert file.load(everything) == Config()

    @every_setting
    def test_the_example_shows_every_setting(self, setting: Setting) -> None:
        shown = f"# {setting.help} ({setting.type})\n#{setting.key} = {setting.default}\n"
        assert shown in example_toml().partition(f"\n[{setting.section}]\n")[2]

    def test_the_example_shows_every_key_of_a_backfill(self, file: Written) -> None:
        shown = re.sub(r"(?m)^#   ", "", example_toml().partition("#   [[backfill]]\n")[2])
        assert list(tomllib.loads(shown)) == [one.key for one in kept_settings()]
        (kept,) = file.load(f"[[backfill]]\n{shown}").backfill
        names = {"provider": "sim", "market": "crypto", "symbols": ("BTC/USD", "ETH/USD")}
        assert kept == KeptConfig(timeframe=Timeframe.parse("1m"), **names)


class TestStorage:
    def test_a_relative_url_has_three_slashes(self) -> None:
        assert StorageConfig("sqlite:///data/bars.db").sqlite_path == Path("data/bars.db")

    def test_an_absolute_url_has_four_slashes(self) -> None:
        assert StorageConfig("sqlite:////srv/my bars.db").sqlite_path == Path("/srv/my bars.db")

    def test_without_a_url_bars_are_kept_in_the_users_data_folder(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
        assert load_config(None, {}).storage.sqlite_path == tmp_path / "marketd" / "marketd.db"

    @pytest.mark.parametrize(
        "url",
        [
            "bars.db",
            "/srv/bars.db",
            "sqlite:",
            "sqlite://",
            "sqlite:///",
            "sqlite:////",
            "sqlite:///.",
            "sqlite://bars.db",
            "sqlite:///:memory:",
            "sqlite:///bars.db?mode=ro",
            "sqlite:///~/bars.db",
            "sqlite:///bars\n.db",
            "SQLITE:///bars.db",
            "postgres://db/bars",
            "timescaledb://db/bars",
            "postgresql:///",
            "postgresql://db",
            "postgresql://db:0/bars",
            "postgresql://db:port/bars",
            "postgresql://user:p/w@db/bars",
            "postgresql://db/bars?password=secret",
            "postgresql://db/bars#secret",
            "postgresql://db/bars\n",
        ],
    )
    def test_another_url_is_refused_with_those_that_are_known(self, url: str) -> None:
        (line,) = refused({"MARKETD_STORAGE__URL": url})
        assert "storage.url" in line
        assert "known are sqlite:///relative.db, sqlite:////absolute/path.db and postgresql://" in line
        assert "p/w" not in line
        assert "=secret" not in line

    def test_a_password_is_in_the_url_and_nowhere_else(self) -> None:
        url = "postgresql://me:s%40cret@db:5433/bars?search_path=market"
        config = load_config(None, {"MARKETD_STORAGE__URL": url})
        assert config.storage.url == url
        (kind,) = (one.kind for one in declared_settings() if one.name == "storage.url")
        told = "postgresql://me:…@db:5433/bars?search_path=market"
        assert kind.toml(url) == f'"{told}"'
        assert str(config.storage) == told
        assert "cret" not in repr(config)

    @pytest.mark.parametrize(
        "url",
        [
            "postgresql://db/bars",
            "postgresql://me@db:5433/bars",
            "postgresql://[::1]:5433/bars",
            "postgresql:///bars?host=/run/postgresql",
        ],
    )
    def test_a_url_of_postgresql_is_one_with_a_database(self, url: str) -> None:
        config = load_config(None, {"MARKETD_STORAGE__URL": url}).storage
        assert (config.url, config.is_postgres, str(config)) == (url, True, url)


class TestProviders:
    def test_without_a_provider_there_is_the_simulated_exchange(self, file: Written) -> None:
        sim = ProviderConfig("sim", "sim", {"seed": 1}, {})
        assert load_config(None, {}).providers == {"sim": sim}
        assert file.load("[providers]\n").providers == {"sim": sim}
        assert load_config(None, {"MARKETD_PROVIDERS__SIM__SEED": "2"}).providers == {
            "sim": ProviderConfig("sim", "sim", {"seed": 2}, {})
        }

    def test_plugins_may_add_theirs_only_where_no_provider_is_named(self, file: Written) -> None:
        assert load_config(None, {}).plugins_may_add
        assert load_config(None, {"MARKETD_PROVIDERS__SIM__SEED": "2"}).plugins_may_add
        assert not file.load('[providers.sim]\nplugin = "sim"\nseed = 1\n').plugins_may_add
        assert not load_config(None, {"MARKETD_PROVIDERS__A__PLUGIN": "sim"}).plugins_may_add

    def test_a_provider_that_is_named_takes_the_place_of_the_simulated_one(self, file: Written) -> None:
        assert file.load('[providers.k]\nplugin = "kraken"\n').providers.keys() == {"k"}
        environ = {"MARKETD_PROVIDERS__K__PLUGIN": "kraken", "MARKETD_PROVIDERS__A__PLUGIN": "alpaca"}
        assert load_config(None, environ).providers == {
            "a": ProviderConfig("a", "alpaca"),
            "k": ProviderConfig("k", "kraken"),
        }

    def test_a_providers_keys_are_kept_as_they_are_and_its_credentials_apart(
        self, file: Written
    ) -> None:
        config = file.load(
            """
            [providers.files]
            plugin = "replay"
            path = "/srv"
            speed = 1.5
            [[providers.files.series]]
            file = "a.csv"
            [providers.files.credentials]
            key = "k"
            """
        )
        assert config.providers == {
            "files": ProviderConfig(
                "files",
                "replay",
                {"path": "/srv", "speed": 1.5, "series": [{"file": "a.csv"}]},
                {"key": "k"},
            )
        }

    @pytest.mark.parametrize(
        ("text", "value"),
        [
            ("2", 2),
            ("0.5", 0.5),
            ("true", True),
            ('["a", 1]', ["a", 1]),
            ('"2"', "2"),
            ("BTC/USD", "BTC/USD"),
            ("/srv/a b", "/srv/a b"),
            ("", ""),
            ("1\nx = 2", "1\nx = 2"),
        ],
    )
    def test_a_providers_variable_is_read_as_toml_and_is_text_otherwise(
        self, text: str, value: object
    ) -> None:
        provider = load_config(None, {"MARKETD_PROVIDERS__SIM__A_B": text}).providers["sim"]
        assert provider.settings == {"seed": 1, "a_b": value}

    def test_a_credential_in_the_environment_is_always_text(self) -> None:
        environ = {"MARKETD_PROVIDERS__SIM__CREDENTIALS__API_KEY": "0123"}
        assert load_config(None, environ).providers["sim"].credentials == {"api_key": "0123"}
        environ = {"MARKETD_PROVIDERS__SIM__CREDENTIALS__API_KEY": "12e3"}
        assert load_config(None, environ).providers["sim"].credentials == {"api_key": "12e3"}

    def test_a_file_among_systemds_credentials_is_a_credential_unless_a_variable_says_otherwise(
        self, file: Written, tmp_path: Path
    ) -> None:
        folder = tmp_path / "credentials"
        folder.mkdir()
        for name, content in {
            "providers.x.key": "from-systemd\n",
            "providers.x.secret": "0123",
            "providers.my-feed.key": "other",
            "database-password": "not ours",
        }.items():
            (folder / name).write_text(content)
        providers = (
            '[providers.x]\nplugin = "x"\ncredentials.key = "k"\n[providers.my-feed]\nplugin = "x"\n'
        )
        environ = {"CREDENTIALS_DIRECTORY": str(folder)}
        found = file.load(providers, environ).providers
        assert found["x"].credentials == {"key": "from-systemd", "secret": "0123"}
        assert found["my-feed"].credentials == {"key": "other"}
        environ |= {"MARKETD_PROVIDERS__X__CREDENTIALS__KEY": "v"}
        assert file.load(providers, environ).providers["x"].credentials["key"] == "v"

    @pytest.mark.parametrize(
        ("name", "content", "match"),
        [
            ("providers.nobody.key", b"hush", "no such provider"),
            ("providers.sim.key", b"hush\xff", "UTF-8"),
        ],
    )
    def test_a_credential_that_cannot_be_used_is_told_by_its_name_alone(
        self, tmp_path: Path, name: str, content: bytes, match: str
    ) -> None:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ConfigError, match=match) as told:
            load_config(None, {"CREDENTIALS_DIRECTORY": str(tmp_path)})
        assert "hush" not in told.value.message

    def test_credentials_that_are_not_there_are_told(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="cannot be read"):
            load_config(None, {"CREDENTIALS_DIRECTORY": str(tmp_path / "gone")})

    def test_a_variable_reaches_a_key_of_an_inner_table(self, file: Written) -> None:
        content = '[providers.x]\nplugin = "x"\nretry.times = 1\nretry.wait = 2\ncredentials.key = "k"\n'
        environ = {
            "MARKETD_PROVIDERS__X__RETRY__TIMES": "3",
            "MARKETD_PROVIDERS__X__CREDENTIALS__KEY": "other",
            "MARKETD_PROVIDERS__X__NEW__TABLE": "true",
        }
        assert file.load(content, environ).providers["x"] == ProviderConfig(
            "x", "x", {"retry": {"times": 3, "wait": 2}, "new": {"table": True}}, {"key": "other"}
        )

    def test_a_variable_reaches_a_provider_with_a_hyphen_by_an_underscore(self, file: Written) -> None:
        content = '[providers.my-feed]\nplugin = "x"\n'
        environ = {"MARKETD_PROVIDERS__MY_FEED__A": "1"}
        assert file.load(content, environ).providers["my-feed"].settings == {"a": 1}
        both = file.load(content + '[providers.my_feed]\nplugin = "x"\n', environ).providers
        assert (both["my_feed"].settings, both["my-feed"].settings) == ({"a": 1}, {})

    @pytest.mark.parametrize("name", ["a", "0", "a-b_c", "a" * 32])
    def test_a_name_of_small_letters_digits_and_signs_is_taken(self, name: str, file: Written) -> None:
        assert file.load(f'[providers.{name}]\nplugin = "x"\n').providers[name].name == name

    @pytest.mark.parametrize("name", ["", "A", "-a", "_a", "a b", "a.b", "a\n", "é", "a" * 33])
    def test_any_other_name_is_refused(self, name: str, file: Written) -> None:
        (line,) = file.problems(f'[providers.{json.dumps(name)}]\nplugin = "x"\n')
        assert line.startswith("providers.")
        assert "wanted a name of a-z, 0-9, _ and -, at most 32 characters" in line

    def test_neither_the_environment_may_give_a_wrong_name(self) -> None:
        (line,) = refused({"MARKETD_PROVIDERS___A__PLUGIN": "x"})
        assert line.startswith("MARKETD_PROVIDERS___A__PLUGIN: wanted a name of a-z")


class TestRedis:
    @pytest.mark.parametrize(
        "url",
        [
            "redis://localhost",
            "redis://user:p%40ss@127.0.0.1:6379/0",
            "rediss://:secret@[::1]:6379",
            "unix:///run/redis.sock",
            "unix://:secret@/run/redis.sock?db=3",
        ],
    )
    def test_an_address_of_a_redis_is_taken_and_never_shown(self, url: str, file: Written) -> None:
        config = file.load(f'[redis]\nurl = "{url}"\n')
        assert config.redis.url == url
        assert url not in repr(config)

    @pytest.mark.parametrize(
        "url",
        [
            "localhost:6379",
            "http://localhost",
            "redis://",
            "redis://localhost:0",
            "redis://localhost:65536",
            "redis://localhost/zero",
            "redis://localhost?socket_timeout=1",
            "unix://run/redis.sock",
            "redis://a b",
        ],
    )
    def test_anything_else_is_refused(self, url: str, file: Written) -> None:
        (line,) = file.problems(f'[redis]\nurl = "{url}"\n')
        assert line.startswith("redis.url: saw ")


class TestRateLimits:
    def test_a_provider_s_limit_is_read_apart_from_the_plugin_s_settings(self, file: Written) -> None:
        config = file.load('[providers.x]\nplugin = "x"\nrate_limit = "300/5m"\nseed = 1\n')
        assert config.providers["x"].rate_limit == RateLimit(requests=300, per_ms=300_000)
        assert config.providers["x"].settings == {"seed": 1}
        assert load_config(None, {"MARKETD_PROVIDERS__SIM__RATE_LIMIT": "10/s"}).providers[
            "sim"
        ].rate_limit == RateLimit(requests=10, per_ms=1_000)

    @pytest.mark.parametrize("wrong", ['"10"', '"0/s"', '"10/0s"', '"10 / s"', '"1.5/s"', '"9/x"', "5"])
    def test_anything_else_is_refused(self, wrong: str, file: Written) -> None:
        (line,) = file.problems(f'[providers.x]\nplugin = "x"\nrate_limit = {wrong}\n')
        assert line.startswith("providers.x.rate_limit: saw ")
        assert line.endswith('wanted a number of requests and a time, such as "10/s" or "300/5m".')
