"""What was acknowledged is there after a power cut, and nothing is damaged or there by half.

The soak's own cuts, fewer of them: what SQLite does to the files of a real store is recorded, and the
store is opened from what may be left of it at any moment.
"""

from __future__ import annotations

import random

import pytest

from soak.cuts import Recording, cuts, recorded

CUTS = 70


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Recording:
    return recorded(tmp_path_factory.mktemp("recorded"), 100, random.Random(1))  # noqa: S311


@pytest.mark.parametrize("seed", range(2))
def test_a_power_cut_loses_nothing_acknowledged_and_damages_nothing(
    recording: Recording, seed: int
) -> None:
    found = list(cuts(recording, CUTS, random.Random(seed)))  # noqa: S311
    assert len(found) == CUTS
    assert found[0].keys() != found[-1].keys()


def test_on_a_disk_that_does_not_flush_the_same_cuts_find_losses(recording: Recording) -> None:
    with pytest.raises(AssertionError, match=r"acknowledged and lost|damaged|not whole"):
        list(cuts(recording, CUTS, random.Random(0), flushes=False))  # noqa: S311
