"""`python -m soak [--kills N] [--seed N]`: kills writers, and says how far it has come."""

from __future__ import annotations

import argparse
import random
import secrets
from pathlib import Path
from tempfile import TemporaryDirectory

from soak.kills import ROOT, kills, victims

_KILLS_OF_A_FILE = 25  # every page is read after each kill, so that longer files slow it down


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m soak", description="Kills a writing store at random moments; fails on any loss."
    )
    parser.add_argument("--kills", type=int, default=500, metavar="N", help="how many")
    parser.add_argument("--seed", type=int, default=None, metavar="N", help="of the chosen moments")
    options = parser.parse_args()
    seed = secrets.randbelow(1_000_000) if options.seed is None else options.seed
    print(f"{options.kills} kills, seed {seed}")
    chance = random.Random(seed)  # noqa: S311
    # Beside the sources, on a disk: a machine's temporary folder may be memory.
    scratch_root = ROOT / ".soak"
    scratch_root.mkdir(exist_ok=True)
    done = 0
    with victims() as alive:
        while done < options.kills:
            with TemporaryDirectory(dir=scratch_root) as scratch:
                number = min(_KILLS_OF_A_FILE, options.kills - done)
                for there in kills(alive, Path(scratch) / "bars.db", number, chance):
                    done += 1
                    progress = f"{done} of {options.kills} kills, nothing lost; {len(there)} pages"
                    print(f"\r{progress:60}", end="", flush=True)
    print()


if __name__ == "__main__":
    main()
