"""Real daemons that are killed with SIGKILL."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

_DOOMED = Path(__file__).with_name("doomed.py")


class Doomed:
    """Daemons over one database, one after the other."""

    def __init__(self, process: Process, order: str) -> None:
        self._process = process
        self._order = f"{order}\n".encode()
        self.pid = 0
        self.url = ""

    async def start(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(self._order)
        said = dict([await self._said(), await self._said()])
        self.pid, self.url = int(said["started"]), said["serves"]

    async def kill(self) -> None:
        """Returns once the daemon is gone."""
        os.kill(self.pid, signal.SIGKILL)
        self.pid = 0
        assert await self._said() == ("ended", str(-signal.SIGKILL))

    async def _said(self) -> tuple[str, str]:
        assert self._process.stdout is not None
        line = (await asyncio.wait_for(self._process.stdout.readline(), 60)).decode()
        what, _, value = line.strip().partition(" ")
        return what, value


@asynccontextmanager
async def doomed_node(*urls: str) -> AsyncIterator[Doomed]:
    """Where daemons can be started, over the URLs of a database, a vendor and perhaps a Redis."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, str(_DOOMED)),
        stdin=PIPE,
        stdout=PIPE,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    doomed = Doomed(process, " ".join(urls))
    try:
        yield doomed
    finally:
        if doomed.pid:
            await doomed.kill()
        assert process.stdin is not None
        process.stdin.close()
        await process.wait()
