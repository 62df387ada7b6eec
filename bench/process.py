"""Servers and their clients in processes of their own: started, told what to do, measured, stopped."""

from __future__ import annotations

import os
import re
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

_URL = re.compile(r"http://\S+")
_STOP_S = 10.0


def quiet(database_url: str) -> dict[str, str]:
    """The environment of a daemon that has this database, any port, and the simulated exchange alone."""
    return {
        "MARKETD_STORAGE__URL": database_url,
        "MARKETD_SERVER__PORT": "0",
        "MARKETD_PROVIDERS__SIM__PLUGIN": "sim",
    }


def most_files() -> int:
    """How many files a process may have open at once; as many as the machine allows from now on."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return most


class Process:
    """`python -m <module> <arguments>` from its start until the block ends."""

    def __init__(self, module: str, *arguments: str | Path, **environment: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", module, *map(str, arguments)],
            env=os.environ | environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.terminate()
        try:
            self._process.communicate(timeout=_STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.communicate()

    def tell(self, line: str) -> None:
        """Writes a line to the process's standard input."""
        pipe = self._process.stdin
        assert pipe is not None
        pipe.write(line + "\n")
        pipe.flush()

    def lines(self) -> Iterator[str]:
        """What the process prints, line by line."""
        output = self._process.stdout
        assert output is not None
        return iter(output.readline, "")

    def open_files(self) -> int:
        """How many files and sockets the process has open."""
        return len(os.listdir(f"/proc/{self._process.pid}/fd"))

    def resident_bytes(self) -> int:
        """The memory that the process holds."""
        pages = Path(f"/proc/{self._process.pid}/statm").read_text().split()[1]
        return int(pages) * os.sysconf("SC_PAGE_SIZE")

    def cpu_seconds(self) -> float:
        """The time of a core that the process has taken since its start."""
        fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


class Server(Process):
    """A process that listens: the first URL that it prints says that it is ready, and where."""

    def __init__(self, module: str, *arguments: str | Path, **environment: str) -> None:
        super().__init__(module, *arguments, **environment)
        self.host, self.port = self._address()

    def _address(self) -> tuple[str, int]:
        said = ""
        for line in self.lines():
            said += line
            if found := _URL.search(line):
                url = urlsplit(found[0])
                return url.hostname or "", url.port or 0
        raise RuntimeError(f"{self._process.args!r} ended before it was ready:\n{said}")
