"""The configuration read again: what is as it was goes on, and a wrong one changes nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import EntryPoint
from typing import Any

import pytest
from marshmallow import Schema, fields

from marketd.clock import ManualClock
from marketd.config import ProviderConfig, UpstreamConfig
from marketd.domain.bar import Bar
from marketd.domain.errors import ConfigError, UnknownProvider
from marketd.domain.instrument import SymbolInfo
from marketd.domain.timeframe import Timeframe
from marketd.metrics import Metrics
from marketd.plugins import MarketPlugin, hookimpl
from marketd.plugins.loader import PluginLoader
from marketd.ratelimit import RateLimiters


class Settings(Schema):
    depth = fields.Integer(required=True)


class Named(MarketPlugin):
    """Lists one symbol, which is its depth."""

    plugin = "named"
    settings_schema = Settings
    markets = ("crypto",)
    timeframes = (Timeframe.parse("1m"),)
    is_closed = False

    async def close(self) -> None:
        self.is_closed = True

    async def get_symbols(self, market: str) -> Sequence[SymbolInfo]:
        return [SymbolInfo(str(self.context.settings["depth"]), market)]

    async def fetch_ohlcv(
        self,
        symbol: str,
        timeframe: Timeframe,
        since: int,
        before: int,
        limit: int,
        params: Mapping[str, Any],
    ) -> Sequence[Bar]:
        return []


@hookimpl
def marketd_providers() -> Sequence[type[MarketPlugin]]:
    return [Named]


def configs(**depths: Any) -> dict[str, ProviderConfig]:
    return {name: ProviderConfig(name, "named", {"depth": depth}) for name, depth in depths.items()}


def loaded(**depths: Any) -> PluginLoader:
    metrics = Metrics()
    loader = PluginLoader(
        clock=ManualClock(0),
        upstream=UpstreamConfig(),
        metrics=metrics,
        limiter=RateLimiters("", metrics).limiter,
        found=lambda: [EntryPoint("named", __name__, "marketd")],
    )
    loader.load(configs(**depths))
    return loader


async def listed(loader: PluginLoader, name: str) -> set[str]:
    return set(await loader.provider(name).symbols("crypto"))


async def test_what_is_as_it_was_goes_on_and_the_rest_is_set_up() -> None:
    loader = loaded(same=1, other=2, gone=3)
    for name in ("same", "other", "gone"):
        await listed(loader, name)
    former = {name: one.plugin for name, one in loader.providers.items()}
    assert await loader.reload(configs(same=1, other=20, new=4)) == {"other", "gone", "new"}
    assert loader.providers["same"].plugin is former["same"]
    assert {name: one.is_closed for name, one in former.items() if isinstance(one, Named)} == {
        "same": False,
        "other": True,
        "gone": True,
    }
    assert await listed(loader, "other") == {"20"}
    assert await listed(loader, "new") == {"4"}
    with pytest.raises(UnknownProvider):
        loader.provider("gone")
    assert loader.get_all_markets() == {"crypto": ["new", "other", "same"]}
    await loader.close()


async def test_one_that_cannot_be_set_up_changes_nothing() -> None:
    loader = loaded(one=1, two=2)
    await listed(loader, "one")
    plugin = loader.providers["one"].plugin
    with pytest.raises(ConfigError) as refused:
        await loader.reload(configs(one=5, new="deep"))
    assert refused.value.message == "providers.new.depth: Not a valid integer."
    assert loader.providers["one"].plugin is plugin
    assert list(loader.providers) == ["one", "two"]
    assert await listed(loader, "one") == {"1"}
    await loader.close()


async def test_one_that_was_wrong_from_the_start_may_be_put_right() -> None:
    loader = loaded(one=1, wrong="deep")
    assert await loader.reload(configs(one=1, wrong="deep")) == set()
    assert "wrong" in loader.failed_providers
    await loader.reload(configs(one=1, wrong=2))
    assert await listed(loader, "wrong") == {"2"}
    assert not loader.failed_providers
    await loader.close()


async def test_whoever_holds_one_that_is_removed_has_it_again_when_it_is_back() -> None:
    loader = loaded(one=1)
    held = loader.provider("one")
    await loader.reload({})
    with pytest.raises(UnknownProvider):
        await held.symbols("crypto")
    await loader.reload(configs(one=7))
    assert set(await held.symbols("crypto")) == {"7"}
    await loader.close()
