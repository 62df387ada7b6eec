"""`systemctl reload`: SIGHUP at the real process, with a client that follows a provider meanwhile."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Callable
from typing import Any

import websockets

Launch = Callable[..., Any]

SIM = '[providers.sim]\nplugin = "sim"\nseed = 1\n'
OTHER = '[providers.other]\nplugin = "sim"\nseed = {}\n'
KEPT = '[[backfill]]\nprovider = "sim"\nmarket = "crypto"\nsymbols = ["BTC/USD"]\ntimeframe = "1d"\n'
NAMES = {"market": "crypto", "symbol": "BTC/USD", "timeframe": "1d", "limit": 3}


async def states(daemon: Any) -> dict[str, str]:
    ready = await daemon.get("/readyz")
    return {one["provider"]: one["state"] for one in ready["providers"]}


async def becomes(daemon: Any, wanted: dict[str, str]) -> None:
    async with asyncio.timeout(60):
        while await states(daemon) != wanted:  # noqa: ASYNC110 - another process
            await asyncio.sleep(0.02)


async def test_only_what_has_changed_is_set_up_anew_and_nobody_else_notices(launch: Launch) -> None:
    daemon = await launch(SIM + OTHER.format(2))
    before = await daemon.get("/api/v1/ohlcv", provider="other", **NAMES)
    ws = daemon.url.replace("http", "ws") + "/api/v1/stream"
    async with websockets.connect(ws) as socket, asyncio.timeout(60):
        names = {"market": "crypto", "provider": "sim", "symbols": ["BTC/USD"], "timeframe": "1s"}
        await socket.send(json.dumps({"type": "subscribe", "id": "1"} | names))
        await becomes(daemon, {"sim": "up", "other": "up"})
        daemon.configure(SIM + OTHER.format(3) + '[providers.new]\nplugin = "sim"\n')
        await becomes(daemon, {"sim": "up", "other": "idle", "new": "idle"})
        after = await daemon.get("/api/v1/ohlcv", provider="new", **NAMES)
        assert after["bars"] != before["bars"]
        # One bar after the other, over the reload: the stream was not begun anew.
        times: list[int] = []
        while len(times) < 3:
            message = json.loads(await socket.recv())
            assert message["type"] not in ("status", "gap", "error"), message
            if message["type"] == "bar" and message["closed"]:
                times.append(message["bar"][0])
        window = {"timeframe": "1s", "since": times[0], "before": times[-1] + 1}
        stored = await daemon.get("/api/v1/ohlcv", provider="sim", **NAMES | window)
        assert times == [bar[0] for bar in stored["bars"]]
        daemon.configure(SIM + OTHER.format('"many"'))
        refused = await daemon.logged("configuration refused")
        assert "providers.other.seed: Not a valid integer" in refused
        assert await states(daemon) == {"sim": "up", "other": "idle", "new": "up"}
        daemon.configure(OTHER.format(3) + KEPT)
        refused = await daemon.logged("configuration refused")
        assert "[[backfill]] 1, provider: there is no provider sim" in refused
        assert await states(daemon) == {"sim": "up", "other": "idle", "new": "up"}
        daemon.configure(SIM)
        await becomes(daemon, {"sim": "up"})
    daemon.signal(signal.SIGTERM)
    assert await daemon.ended() == 0
    assert "Traceback" not in await daemon.log()
