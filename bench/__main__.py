"""`python -m bench [ROW …] [--quick]`: runs the rows and prints the table as it comes to be."""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.report import heading, line

_FAMILIES = {
    "ohlcv": "answers of 1,000 bars over HTTP, warm and cold",
    "cache": "1,000 bars out of a cache, and out of the store behind it",
    "storing": "storing bars durably",
    "storing_postgres": "storing bars durably in PostgreSQL",
    "resampling": "a million minutes into hours",
    "fanout": "a message to 1,000 WebSocket clients",
    "delivery": "from a provider to 1,000 clients, and beside 100 that do not read",
    "joining": "1,000 clients that come back at once",
    "idle": "start, memory, and memory of a client",
    "files": "a CSV file into the store and out of it",
    "backfill": "a year of minutes from a local exchange",
    "felt": "what clients notice of a backfill",
    "depth": "a range out of 1 million and out of 50 million bars",
    "depth_postgres": "the same in PostgreSQL, and against bare asyncpg",
}


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="Measures marketd against its performance budget.",
        epilog="Rows: " + "; ".join(f"{name}, {what}" for name, what in _FAMILIES.items()) + ".",
    )
    parser.add_argument("rows", nargs="*", metavar="ROW", help="which rows; without any, all of them")
    parser.add_argument("--quick", action="store_true", help="under a minute, and less exact")
    options = parser.parse_args()
    unknown = ", ".join(set(options.rows) - set(_FAMILIES))
    if unknown:
        parser.error(f"no such row: {unknown}")
    # Beside the sources, on a disk: a machine's temporary folder may be memory.
    scratch_root = Path(__file__).parent.parent / ".bench"
    scratch_root.mkdir(exist_ok=True)
    print(heading(), flush=True)
    for name in options.rows or _FAMILIES:
        family = importlib.import_module(f"bench.{name}")
        with TemporaryDirectory(dir=scratch_root) as scratch:
            for row in family.rows(Path(scratch), options.quick):
                print(line(row), flush=True)


if __name__ == "__main__":
    main()
