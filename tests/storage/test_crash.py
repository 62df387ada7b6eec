"""What was acknowledged is there after a kill -9, and nothing is there by half.

The soak's own kills, fewer of them: a writer of its own process stores pages as fast as it can and
says which have been acknowledged; it is killed whenever, and the next goes on over the same file.
"""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from soak.kills import kills, victims

KILLS_OF_A_FILE = 18


@pytest.mark.parametrize("seed", range(3))
def test_a_kill_loses_nothing_acknowledged_and_leaves_nothing_by_half(tmp_path: Path, seed: int) -> None:
    chance = random.Random(seed)  # noqa: S311
    with victims() as alive:
        *_, there = kills(alive, tmp_path / "bars.db", KILLS_OF_A_FILE, chance)
    assert len(there) > KILLS_OF_A_FILE
