"""Telling systemd how the service is, by its notify protocol (sd_notify(3))."""

from __future__ import annotations

import logging
import socket

log = logging.getLogger(__name__)


class Notifier:
    """Sends states to the socket that systemd names in NOTIFY_SOCKET; without one, does nothing.

    Nobody waits for it: what cannot be sent at once is logged, and the service goes on.
    """

    def __init__(self, address: str | None) -> None:
        # A name that begins with @ is in Linux's abstract namespace, written with a zero byte.
        self._address = f"\0{address[1:]}" if address and address.startswith("@") else address

    def ready(self, status: str) -> None:
        """The service can answer."""
        self._send(f"READY=1\nSTATUS={status}")

    def stopping(self) -> None:
        """The service has begun to end."""
        self._send("STOPPING=1")

    def _send(self, state: str) -> None:
        if not self._address:
            return
        kind = socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        with socket.socket(socket.AF_UNIX, kind) as out:
            try:
                out.connect(self._address)
                out.sendall(state.encode())
            except OSError as error:
                log.warning("systemd was not told reason=%s", error)
