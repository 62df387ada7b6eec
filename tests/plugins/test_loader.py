"""Plugins are found, and a broken one costs nothing but its own line."""

from __future__ import annotations

import logging
import sys
import textwrap
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

from marketd.clock import ManualClock
from marketd.config import ProviderConfig, UpstreamConfig
from marketd.domain.errors import NotReady, UnknownProvider
from marketd.metrics import Metrics
from marketd.plugins.loader import PluginLoader, installed
from marketd.ratelimit import RateLimiters

GOOD = """
    from marketd.plugins import MarketPlugin, hookimpl
    from marshmallow import Schema, fields

    class Settings(Schema):
        depth = fields.Integer(load_default=1)

    class Credentials(Schema):
        key = fields.String(required=True)

    class Good(MarketPlugin):
        plugin = "good"
        settings_schema = Settings
        credentials_schema = Credentials
        markets = ("crypto", "forex")
        timeframes = ()

        async def get_symbols(self, market):
            return []

        async def fetch_ohlcv(self, symbol, timeframe, since, before, limit, params):
            return []

    @hookimpl
    def marketd_providers():
        return [Good]
"""
BROKEN = {
    "raises": "raise RuntimeError('no luck')",
    "exits": "import sys; sys.exit(3)",
    "syntax": "def (",
    "imports": "import a_package_that_is_not_there",
    "misspelt": """
        from marketd.plugins import hookimpl
        @hookimpl
        def marketd_provider():
            return []
    """,
    "no_class": """
        from marketd.plugins import hookimpl
        @hookimpl
        def marketd_providers():
            return ["text"]
    """,
    "no_list": """
        from marketd.plugins import hookimpl
        @hookimpl
        def marketd_providers():
            return None
    """,
    "hook_raises": """
        from marketd.plugins import hookimpl
        @hookimpl
        def marketd_providers():
            raise ValueError("later")
    """,
    "twice": GOOD,
}


@pytest.fixture
def entry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Writes a module and gives its entry point."""
    monkeypatch.syspath_prepend(str(tmp_path))
    made: list[str] = []

    def make(name: str, source: str) -> EntryPoint:
        module = f"plugin_under_test_{name}"
        (tmp_path / f"{module}.py").write_text(textwrap.dedent(source))
        made.append(module)
        return EntryPoint(name, module, "marketd")

    yield make
    for module in made:
        sys.modules.pop(module, None)


def loader(*entries: EntryPoint, metrics: Metrics | None = None) -> PluginLoader:
    return PluginLoader(
        clock=ManualClock(0),
        upstream=UpstreamConfig(),
        metrics=metrics or Metrics(),
        limiter=RateLimiters("", Metrics()).limiter,
        found=lambda: entries,
    )


def config(name: str = "one", plugin: str = "good", **settings: Any) -> dict[str, ProviderConfig]:
    credentials = settings.pop("credentials", {"key": "abcdef"})
    return {name: ProviderConfig(name, plugin, settings, credentials)}


def test_the_built_in_plugins_are_found_like_any_other() -> None:
    found = PluginLoader(
        clock=ManualClock(0),
        upstream=UpstreamConfig(),
        metrics=Metrics(),
        limiter=RateLimiters("", Metrics()).limiter,
        found=installed,
    )
    found.load({"sim": ProviderConfig("sim", "sim", {}, {})})
    assert {report.name for report in found.reports} >= {"sim", "replay"}
    assert all(not report.error and report.package for report in found.reports)
    assert found.get_all_markets() == {"crypto": ["sim"], "us_equity": ["sim"]}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_plugin_is_reported_counted_and_logged_and_the_rest_runs(
    name: str, entry: Any, caplog: pytest.LogCaptureFixture
) -> None:
    metrics = Metrics()
    plugins = loader(entry("good", GOOD), entry(name, BROKEN[name]), metrics=metrics)
    with caplog.at_level(logging.ERROR):
        plugins.load(config())
    good, broken = plugins.reports
    assert good.provides == ("good",)
    assert not good.error
    assert broken.error
    assert broken.provides == ()
    assert [record.getMessage() for record in caplog.records if name in record.getMessage()]
    assert len(caplog.records) == 1
    assert metrics.registry.get_sample_value("marketd_plugins_failed") == 1
    assert plugins.get_all_markets() == {"crypto": ["one"], "forex": ["one"]}


def test_settings_go_through_the_plugin_s_schema(entry: Any) -> None:
    plugins = loader(entry("good", GOOD))
    plugins.load(config())
    assert plugins.provider("one").plugin.context.settings == {"depth": 1}


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"depth": "deep"}, "providers.one.depth"),
        ({"dept": 1}, "providers.one.dept"),
        ({"credentials": {}}, "providers.one.credentials.key"),
        (
            {"credentials": {"key": "hush-hush", "secret": "hush-hush"}},
            "providers.one.credentials.secret",
        ),
        ({"plugin": "other"}, "installed are good"),
    ],
)
def test_a_provider_that_cannot_be_set_up_says_why_and_stops_nobody(
    wrong: dict[str, Any], told: str, entry: Any
) -> None:
    plugins = loader(entry("good", GOOD))
    plugins.load(config("two") | config("one", **wrong))
    assert told in plugins.failed_providers["one"]
    assert "hush-hush" not in plugins.failed_providers["one"]
    assert plugins.provider("two").plugin.plugin == "good"
    with pytest.raises(NotReady, match="could not be set up"):
        plugins.provider("one")


def test_an_unknown_provider_is_not_found(entry: Any) -> None:
    with pytest.raises(UnknownProvider):
        loader(entry("good", GOOD)).provider("nobody")


DEFAULTS = """
    @hookimpl
    def marketd_default_providers():
        return {"goody": {"plugin": "good", "depth": 3}, "one": {"plugin": "good", "depth": 4}}
"""


def test_a_plugin_may_add_providers_where_none_is_named(entry: Any) -> None:
    source = GOOD.replace("required=True", 'load_default=""') + DEFAULTS
    plugins = loader(entry("good", source))
    plugins.load(config("one"), defaults=True)
    depths = {name: one.plugin.context.settings["depth"] for name, one in plugins.providers.items()}
    assert depths == {"goody": 3, "one": 1}


def test_it_adds_none_where_the_configuration_names_its_own(entry: Any) -> None:
    plugins = loader(entry("good", GOOD + DEFAULTS))
    plugins.load(config("one"))
    assert set(plugins.providers) == {"one"}


def test_defaults_that_are_no_tables_are_the_plugin_s_own_loss(entry: Any) -> None:
    wrong = DEFAULTS.replace('{"plugin": "good", "depth": 3}', "3")
    plugins = loader(entry("good", GOOD + wrong))
    plugins.load({}, defaults=True)
    assert plugins.reports[0].error
    assert plugins.providers == {}
