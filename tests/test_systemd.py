"""systemd is told when the service can answer and when it ends, over a real socket."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from marketd.systemd import Notifier


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    """A socket like systemd's, not bound yet."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.settimeout(10)
        yield listening


def test_readiness_is_told_with_a_status(listening: socket.socket, tmp_path: Path) -> None:
    listening.bind(str(tmp_path / "notify"))
    Notifier(str(tmp_path / "notify")).ready("serving http://127.0.0.1:8710")
    assert listening.recv(1_000) == b"READY=1\nSTATUS=serving http://127.0.0.1:8710"


def test_stopping_is_told(listening: socket.socket, tmp_path: Path) -> None:
    listening.bind(str(tmp_path / "notify"))
    Notifier(str(tmp_path / "notify")).stopping()
    assert listening.recv(1_000) == b"STOPPING=1"


def test_an_abstract_address_begins_with_an_at_sign(listening: socket.socket) -> None:
    name = f"marketd-test-{os.getpid()}"
    listening.bind(f"\0{name}")
    Notifier(f"@{name}").stopping()
    assert listening.recv(1_000) == b"STOPPING=1"


@pytest.mark.parametrize("address", [None, ""])
def test_without_systemd_nothing_is_told(address: str | None, caplog: pytest.LogCaptureFixture) -> None:
    Notifier(address).ready("serving")
    Notifier(address).stopping()
    assert not caplog.records


@pytest.mark.parametrize("name", ["nobody-there", "x" * 200])
def test_a_socket_where_nobody_listens_stops_nothing(
    tmp_path: Path, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    Notifier(str(tmp_path / name)).ready("serving")
    assert "systemd was not told" in caplog.text


def test_a_listener_that_does_not_read_is_not_waited_for(
    listening: socket.socket, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    listening.bind(str(tmp_path / "notify"))
    notifier = Notifier(str(tmp_path / "notify"))
    for _ in range(10_000):
        notifier.stopping()
        if caplog.records:
            break
    assert "systemd was not told" in caplog.text
