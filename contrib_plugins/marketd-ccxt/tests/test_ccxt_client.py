"""ccxt itself: how little of it is imported, and what it is told."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from binance_standin import Binance
from marketd_ccxt.clients import make_client
from marketd_ccxt.plugin import CcxtPlugin
from marketd_ccxt.settings import CcxtCredentials, CcxtSettings
from standin import NOW

from marketd.clock import ManualClock
from marketd.plugins import PluginContext


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


def test_an_exchange_is_imported_without_the_others() -> None:
    source = """
import sys
from pathlib import Path
from marketd_ccxt.exchanges import exchange_class
def resident_kb():
    lines = Path("/proc/self/status").read_text("ascii").splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("VmRSS")))
before_kb = resident_kb()
exchange_class("kraken")
assert resident_kb() - before_kb < 40_000  # all of ccxt is 75 MB
for name in ("kraken", "binanceusdm", "bit2c"):
    assert exchange_class(name)({}).id == name
assert exchange_class("kraken").__module__ == "ccxt.pro.kraken"
assert exchange_class("bit2c").__module__ == "ccxt.async_support.bit2c"
assert not {"ccxt.okx", "ccxt.kraken", "ccxt.async_support.okx", "ccxt.pro.okx"} & set(sys.modules)
# Whoever else in the process wants more of ccxt has it whole.
import ccxt
assert len(ccxt.exchanges) > 90 and issubclass(ccxt.okx, ccxt.Exchange) and not hasattr(ccxt, "nothing")
assert exchange_class("okx").__module__ == "ccxt.pro.okx"
"""
    done = subprocess.run([sys.executable, "-c", source], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
