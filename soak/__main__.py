"""`python -m soak [--kills N] [--cuts N] [--rounds N] [--seed N]`: kills writers, cuts the power,
troubles nodes, and says how far it has come."""

from __future__ import annotations

import argparse
import asyncio
import random
import secrets
import sqlite3
from pathlib import Path
from tempfile import TemporaryDirectory

from soak.cuts import cuts, recorded
from soak.kills import ROOT, kills, victims
from soak.nodes import rounds
from tests.servers import postgres

_KILLS_OF_A_FILE = 25  # every page is read after each kill, so that longer files slow it down
_CUTS_OF_A_RECORDING = 1_000
_PAGES_OF_A_RECORDING = 400  # enough for the log to be taken into the database, and begun anew


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m soak",
        description="Kills a writing store at random moments, and starts it from what a power cut may "
        "leave of its files; kills, stops and cuts off nodes while clients listen; fails on any loss.",
    )
    parser.add_argument("--kills", type=int, default=500, metavar="N", help="how many")
    parser.add_argument("--cuts", type=int, default=10_000, metavar="N", help="how many power cuts")
    parser.add_argument(
        "--rounds", type=int, default=200, metavar="N", help="how many troubles of nodes"
    )
    parser.add_argument("--seed", type=int, default=None, metavar="N", help="of the chosen moments")
    options = parser.parse_args()
    seed = secrets.randbelow(1_000_000) if options.seed is None else options.seed
    print(f"seed {seed}, SQLite {sqlite3.sqlite_version}")
    # Beside the sources, on a disk: a machine's temporary folder may be memory.
    scratch = ROOT / ".soak"
    scratch.mkdir(exist_ok=True)
    _kill(options.kills, scratch, random.Random(seed))  # noqa: S311
    _cut(options.cuts, scratch, random.Random(seed))  # noqa: S311
    _trouble(options.rounds, random.Random(seed))  # noqa: S311


def _kill(number: int, scratch: Path, chance: random.Random) -> None:
    done = 0
    with victims() as alive:
        while done < number:
            with TemporaryDirectory(dir=scratch) as folder:
                some = min(_KILLS_OF_A_FILE, number - done)
                for there in kills(alive, Path(folder) / "bars.db", some, chance):
                    done += 1
                    _say(f"{done:,} of {number:,} kills, nothing lost; {len(there)} pages")
    print()


def _cut(number: int, scratch: Path, chance: random.Random) -> None:
    done = 0
    while done < number:
        _say(f"{done:,} of {number:,} power cuts; recording a store that writes …")
        with TemporaryDirectory(dir=scratch) as folder:
            recording = recorded(Path(folder), _PAGES_OF_A_RECORDING, chance)
        some = min(_CUTS_OF_A_RECORDING, number - done)
        for there in cuts(recording, some, chance):
            done += 1
            _say(f"{done:,} of {number:,} power cuts, nothing lost or damaged; {len(there)} pages")
    print()


def _trouble(number: int, chance: random.Random) -> None:
    if number:
        # In a folder of a short name: a Unix socket's path has little room.
        with TemporaryDirectory(prefix="marketd-soak-") as folder, postgres.running() as server:
            bars = asyncio.run(rounds(Path(folder), server.url(), number, chance, _say))
        _say(f"{number:,} troubles of nodes; {bars:,} bars told in order, once")
        print()


def _say(progress: str) -> None:
    print(f"\r{progress:75}", end="", flush=True)


if __name__ == "__main__":
    main()
