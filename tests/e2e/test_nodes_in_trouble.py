"""Real nodes are killed, stopped and cut off from Redis, and their clients told what is stored."""

from __future__ import annotations

import random
from pathlib import Path
from tempfile import TemporaryDirectory

from soak.nodes import rounds

ROUNDS = 20


async def test_every_client_of_every_node_is_told_every_bar_in_order_once() -> None:
    said: list[str] = []
    # A Unix socket's path has little room: not below the test's own folder.
    with TemporaryDirectory(prefix="marketd-nodes-") as folder:
        assert await rounds(Path(folder), ROUNDS, random.Random(7), said.append) > ROUNDS  # noqa: S311
    assert len(said) == ROUNDS
