"""A daemon of the cluster, which may die and be born again."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from pathlib import Path

import aiohttp

PATIENCE_S = 60


class Node:
    """One daemon, which may die and be born again."""

    def __init__(self, config: Path) -> None:
        self._config = config
        self._process: asyncio.subprocess.Process | None = None
        self._is_stopped = False
        self.url = ""
        # Whether it has been running, without a pause, for all of this round.
        self.is_well = False
        self.resumed_s = 0.0

    async def start(self) -> None:
        """Returns when it answers."""
        with self._config.with_suffix(".log").open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "marketd", "serve", "-c", str(self._config)),
                stdout=asyncio.subprocess.PIPE,
                stderr=log,
                env={key: value for key, value in os.environ.items() if not key.startswith("MARKETD_")},
            )
        assert self._process.stdout is not None
        async with asyncio.timeout(PATIENCE_S):
            while not self.url:
                line = (await self._process.stdout.readline()).decode()
                assert line, f"a node ended by itself, see {self._config.with_suffix('.log')}"
                self.url = next((word for word in line.split() if word.startswith("http://")), "")
        self.resumed_s = time.time()

    async def kill(self) -> None:
        """kill -9."""
        process, self._process = self._process, None
        self.url = ""
        if process is not None:
            process.kill()
            await process.communicate()

    async def stop_for(self, for_s: float) -> None:
        """Keeps it from running for a while; it does not learn of it."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)
        await asyncio.sleep(for_s)
        self._process.send_signal(signal.SIGCONT)
        self.resumed_s = time.time()

    async def leads(self) -> bool:
        """Whether it follows the series, or its trades, for all."""
        async with aiohttp.ClientSession() as session, session.get(f"{self.url}/metrics") as response:
            return "\nmarketd_stream_leading 0.0" not in await response.text()
