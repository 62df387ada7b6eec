"""What ccxt itself is told: which system to ask, with which key, and to leave the pace to marketd."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
from marketd_ccxt.clients import make_client
from marketd_ccxt.plugin import CcxtPlugin
from marketd_ccxt.settings import CcxtCredentials, CcxtSettings
from standin import Binance

from marketd.clock import ManualClock
from marketd.plugins import PluginContext

NOW = 1_709_647_230_000  # 2024-03-05T14:00:30Z


@pytest.fixture
async def binance() -> AsyncIterator[Binance]:
    exchange = Binance(ManualClock(NOW))
    async with exchange.serving():
        yield exchange


def settings(**more: Any) -> dict[str, Any]:
    loaded: dict[str, Any] = CcxtSettings().load({"exchange": "binance"} | more)
    return loaded


@pytest.mark.parametrize(
    ("sandbox", "host"), [(False, "api.binance.com"), (True, "testnet.binance.vision")]
)
async def test_the_test_system_is_asked_if_that_is_wanted(
    binance: Binance, sandbox: bool, host: str
) -> None:
    wanted = settings(sandbox=sandbox, base_url=binance.url)
    credentials = CcxtCredentials().load({})
    plugin = CcxtPlugin(PluginContext("x", ManualClock(NOW), wanted, credentials))
    await plugin.open()
    await plugin.close()
    assert binance.asked
    assert {path.split("/")[1] for path in binance.asked} == {host}


async def test_the_pace_is_marketd_s_and_the_key_is_optional() -> None:
    bare = make_client(settings(), CcxtCredentials().load({}))
    keyed = make_client(settings(), CcxtCredentials().load({"api_key": "k", "secret": "s"}))
    for client in (bare, keyed):
        assert client.enableRateLimit is False
    assert (bare.apiKey, keyed.apiKey, keyed.secret) == ("", "k", "s")
    for client in (bare, keyed):
        await client.close()
