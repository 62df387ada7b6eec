"""The real process, started as a user starts it."""

from __future__ import annotations

import asyncio
import os
import resource
import signal
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

START_S = 60


class Process:
    """A running `marketd serve`."""

    def __init__(self, process: asyncio.subprocess.Process, config: Path) -> None:
        self._process = process
        self._config = config
        self.url = ""
        self.screen = ""

    async def started(self) -> None:
        """Waits for the first screen, which says where the daemon listens."""
        assert self._process.stdout is not None
        async with asyncio.timeout(START_S):
            while not self.url:
                line = (await self._process.stdout.readline()).decode()
                assert line, f"the daemon ended: {await self.log()}"
                self.screen += line
                self.url = next((word for word in line.split() if word.startswith("http://")), "")

    async def get(self, path: str, **query: Any) -> dict[str, Any]:
        async with (
            aiohttp.ClientSession() as session,
            session.get(self.url + path, params=query) as response,
        ):
            body: dict[str, Any] = await response.json()
            assert response.status == 200, body
            return body

    async def metric(self, name: str) -> float:
        """The sum of a metric over its labels."""
        async with aiohttp.ClientSession() as session, session.get(f"{self.url}/metrics") as response:
            lines = (await response.text()).splitlines()
        return sum(
            float(line.split()[-1]) for line in lines if line.startswith((f"{name} ", f"{name}{{"))
        )

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def configure(self, providers: str) -> None:
        """Writes other providers into its configuration and has it read that again."""
        head, _, _ = self._config.read_text("utf-8").partition("[providers.")
        self._config.write_text(head + providers, encoding="utf-8")
        self.signal(signal.SIGHUP)

    @property
    def may_open(self) -> int:
        """How many files and sockets it may have open."""
        return resource.prlimit(self._process.pid, resource.RLIMIT_NOFILE)[0]

    def limit_files(self, size: int) -> None:
        """Lets no file that the process writes grow beyond `size` from now on: its disk is full."""
        _, most = resource.prlimit(self._process.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(self._process.pid, resource.RLIMIT_FSIZE, (size, most))

    async def ended(self) -> int:
        """The exit code, once the process has ended."""
        return await asyncio.wait_for(self._process.wait(), START_S)

    async def logged(self, text: str) -> str:
        """The next line of the log that holds `text`; those before it are gone."""
        assert self._process.stderr is not None
        async with asyncio.timeout(START_S):
            while True:
                line = (await self._process.stderr.readline()).decode()
                assert line, "the daemon ended"
                if text in line:
                    return line

    async def log(self) -> str:
        """Everything on standard error, once the process has ended."""
        assert self._process.stderr is not None
        return (await self._process.stderr.read()).decode()

    async def kill(self) -> None:
        """kill -9, whatever it is doing."""
        if self._process.returncode is None:
            self._process.kill()
        await self._process.communicate()


@pytest.fixture
async def launch(tmp_path: Path) -> AsyncIterator[Callable[..., Any]]:
    """Starts the daemon with the providers of a TOML text, over one database for the whole test.

    That is a file, unless `storage` is the URL of another. The port is a free one unless it is given.
    """
    running: list[Process] = []

    async def start(providers: str, *, wait: bool = True, storage: str = "", port: int = 0) -> Process:
        config = tmp_path / "config.toml"
        url = storage or f"sqlite:///{tmp_path / 'marketd.db'}"
        config.write_text(
            f'[server]\nport = {port}\n[storage]\nurl = "{url}"\n{providers}', encoding="utf-8"
        )
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "marketd",
            "serve",
            "-c",
            str(config),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env={key: value for key, value in os.environ.items() if not key.startswith("MARKETD_")},
        )
        running.append(Process(process, config))
        if wait:
            await running[-1].started()
        return running[-1]

    yield start
    for process in running:
        await process.kill()
