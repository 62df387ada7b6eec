"""What a daemon does by itself, beside what it is asked."""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress

from prometheus_client import Counter

from marketd.clock import Clock
from marketd.domain.errors import MarketdError, StorageFailed
from marketd.plugins.loader import PluginLoader
from marketd.plugins.provider import Provider
from marketd.storage import Storage

log = logging.getLogger(__name__)

# How often a store that takes no writes is tried.
_PROBE_S = 1.0
# How often old trades are dropped, at the least.
_DROP_S = 3600.0
# How often, at the least, it is looked which providers nobody needs any more.
_LOOK_S = 60.0


async def open_if_there(provider: Provider) -> None:
    """Opens a provider that nobody has configured, so that it shows whether it is there."""
    with suppress(MarketdError):  # which is its health from now on, and logged
        await provider.open()


async def close_idle(loader: PluginLoader, idle_ms: int) -> None:
    """Closes what nobody has needed for so long."""
    while True:
        await asyncio.sleep(min(idle_ms / 1000 / 4, _LOOK_S))
        await loader.close_idle(idle_ms / 1000)


async def drop(storage: Storage, clock: Clock, keep_ms: int) -> None:
    """Keeps no trade for much longer than it is to be kept."""
    while True:
        try:
            await storage.drop_ticks(max(0, clock.now_ms() - keep_ms))
        except StorageFailed as error:
            log.warning("old trades not dropped reason=%s", error.message)
        await asyncio.sleep(min(_DROP_S, keep_ms / 1000))


async def probe(storage: Storage, seconds: Counter) -> None:
    """Finds out that a store takes writes again, also when nobody has anything to write; adds up the
    time until then."""
    counted_s = 0.0
    while True:
        await asyncio.sleep(_PROBE_S)
        if storage.fault:
            # The store has logged it, and says so until it is over.
            with suppress(StorageFailed):
                await storage.probe()
        failed_s = storage.failed_s
        seconds.inc(failed_s - counted_s)
        counted_s = failed_s
