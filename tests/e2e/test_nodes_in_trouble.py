"""Real nodes are killed, stopped and cut off from Redis, and their clients told what is stored."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from tempfile import TemporaryDirectory

from servers.postgres import PostgresServer

from soak.nodes import TAKEOVER_S, rounds

# Side by side: most of the time it is waited for something.
CLUSTERS = 2
ROUNDS = 10
# The soak, which has the machine for itself, allows half of it.
MOST_LATE_S = 2 * TAKEOVER_S


async def test_every_client_of_every_node_is_told_every_bar_in_order_once_and_soon(
    postgres_server: PostgresServer,
) -> None:
    said: list[str] = []
    # A Unix socket's path has little room: not below the test's own folder.
    with TemporaryDirectory(prefix="marketd-nodes-") as folder:
        async with asyncio.TaskGroup() as group:
            running = []
            for number in range(CLUSTERS):
                below = Path(folder) / str(number)
                below.mkdir()
                database = await postgres_server.create(f"trouble_{number}")
                chance = random.Random(number)  # noqa: S311
                work = rounds(below, database, ROUNDS, chance, said.append, most_late_s=MOST_LATE_S)
                running.append(group.create_task(work))
    assert all(task.result() > ROUNDS for task in running)
    assert len(said) == CLUSTERS * ROUNDS
