"""A daemon that has the process to itself."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
from pathlib import Path

from marketd.config import Config, ServerConfig, StorageConfig
from marketd.daemon import Daemon


async def test_a_full_collection_does_not_look_again_at_what_the_start_has_made(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'marketd.db'}"
    config = Config(server=ServerConfig(port=0), storage=StorageConfig(url), providers={})
    daemon = Daemon(config)
    await daemon.start()
    gc.collect()
    made = len(gc.get_objects())
    serving = asyncio.create_task(daemon.run_until_signalled(lambda: config))
    try:
        await asyncio.sleep(0)
        assert gc.get_freeze_count() > 0.9 * made
        assert len(gc.get_objects()) < 0.1 * made
    finally:
        gc.unfreeze()
        os.kill(os.getpid(), signal.SIGTERM)
        await serving
