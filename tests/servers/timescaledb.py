"""A real TimescaleDB without a server to install: npm's, compiled to WebAssembly, on a Unix socket."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from servers.nodejs import node

HERE = Path(__file__).with_name("timescale")


@contextmanager
def running() -> Iterator[str]:
    """The URL of its one database. One connection at a time: whoever has it must close it."""
    with tempfile.TemporaryDirectory(prefix="marketd-timescale-") as folder:
        process = subprocess.Popen(
            [node(), HERE / "serve.mjs", Path(folder) / ".s.PGSQL.5432"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"ready\n"
            yield f"postgresql://postgres@/postgres?host={folder}"
        finally:
            process.communicate()
