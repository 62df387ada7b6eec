"""Ports for servers that are to have one before they listen, or while they are away."""

from __future__ import annotations

import random
import socket

# Below those that systems give to whoever asks for any, so that nobody else is given it meanwhile.
_PORTS = range(10_000, 32_000)


def free_port() -> int:
    """A port of loopback that nobody listens at."""
    while True:
        port = random.choice(_PORTS)  # noqa: S311 - only to be another than the last
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) != 0:
                return port
