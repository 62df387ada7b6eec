"""A CSV file of bars into the store and out of it again, and what its bars take up on disk.

`marketd import` without a daemon, its start included, against a bare csv.reader and an `executemany`
upsert into a table of rows (WAL, `synchronous=FULL`, a transaction for 4,096); `marketd export`
likewise against a bare select and csv.writer.
"""

from __future__ import annotations

import csv
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from itertools import count, islice
from pathlib import Path

from bench.bare import connected, upsert
from bench.report import Row, alternate, faster
from bench.series import pages
from marketd.barfiles.writer import new_file

_PAGE = 4_096
_NAMES = ("--market", "crypto", "--provider", "sim", "--symbol", "BTC/USD", "--timeframe", "1m")


def rows(scratch: Path, quick: bool) -> Iterator[Row]:
    page_count, rounds = (100, 1) if quick else (250, 3)
    bars = page_count * _PAGE
    source = scratch / "bars.csv"
    with new_file(source, replace=False) as write:
        for page in pages(page_count, _PAGE):
            write(page)
    ours, theirs = count(), count()
    versus = alternate(
        lambda: bars / _timed_import(scratch / f"ours-{next(ours)}.db", source),
        lambda: bars / _timed_bare_import(scratch / f"bare-{next(theirs)}.db", source),
        rounds,
    )
    yield faster(f"import of {bars / 1e6:.1f} M bars of CSV", "csv + executemany", versus, "bars/s", 0.3)
    database, bare = scratch / "ours-0.db", scratch / "bare-0.db"
    exported = scratch / "out.csv"
    versus = alternate(
        lambda: bars / _timed(scratch, database, "export", str(exported), "--force"),
        lambda: bars / _timed_bare_export(bare, scratch / "bare.csv"),
        rounds,
    )
    if exported.read_bytes() != source.read_bytes():
        raise RuntimeError("What came out is not what went in.")
    yield faster(f"export of {bars / 1e6:.1f} M bars to CSV", "select + csv", versus, "bars/s", 0.3)
    on_disk = f"{database.stat().st_size / bars:.1f} B a bar"
    as_csv = f"{source.stat().st_size / bars:.1f} B a bar"
    yield Row("imported bars on disk", on_disk, "the CSV file", as_csv, "", "", None)


def _timed(scratch: Path, database: Path, *arguments: str) -> float:
    config = scratch / "store.toml"
    config.write_text(f'[storage]\nurl = "sqlite:///{database}"\n', encoding="utf-8")
    started_s = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "marketd", *arguments, "-c", str(config)], check=True, capture_output=True
    )
    return time.perf_counter() - started_s


def _timed_import(database: Path, source: Path) -> float:
    return _timed(database.parent, database, "import", str(source), *_NAMES)


def _timed_bare_import(database: Path, source: Path) -> float:
    started_s = time.perf_counter()
    with closing(connected(database)) as bare, source.open(encoding="utf-8", newline="") as file:
        lines = csv.reader(file)
        next(lines)
        while page := [(int(t), *map(float, values)) for t, *values in islice(lines, _PAGE)]:
            upsert(bare, page)
    return time.perf_counter() - started_s


def _timed_bare_export(database: Path, target: Path) -> float:
    started_s = time.perf_counter()
    with closing(connected(database)) as bare, target.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["timestamp_ms", "open", "high", "low", "close", "volume"])
        writer.writerows(
            bare.execute("SELECT t, open, high, low, close, volume FROM bar WHERE series = 1 ORDER BY t")
        )
    return time.perf_counter() - started_s
