"""What was acknowledged is there after a kill -9, and nothing is there by half.

A child process, this very file run as a program, stores pages as fast as it can and prints each one
that has been acknowledged; the test kills it whenever, reads what there is, and lets the next child
go on from there over the same file.
"""

from __future__ import annotations

import asyncio
import os
import random
import sqlite3
import sys
from asyncio.subprocess import PIPE
from contextlib import closing
from pathlib import Path

from marketd.domain.bar import Bar
from marketd.domain.coverage import Covered, Reason
from marketd.domain.instrument import Instrument, Series
from marketd.domain.timeframe import Timeframe
from marketd.domain.timerange import MAX_MS, MIN_MS, TimeRange
from marketd.storage.sqlite import SQLiteStorage

ROUNDS = 15
WRITERS = 4  # at once, so that kills hit transactions of several pages too
LONGEST_PAGE = 400
M = 60_000
EVER = TimeRange(MIN_MS, MAX_MS)
FIRST_MS = 1_500_000_000_000 // M * M


def series_of(writer: int) -> Series:
    return Series(Instrument("crypto", "crash", f"writer {writer}"), Timeframe.parse("1m"))


def page_of(writer: int, number: int, version: int) -> tuple[list[Bar], Covered]:
    """The bars of a page, each telling the version, and what they prove; no page touches the next."""
    minutes = random.Random(f"{writer} {number}").randint(0, LONGEST_PAGE)  # noqa: S311
    start_ms = FIRST_MS + number * 2 * LONGEST_PAGE * M
    bars: list[Bar] = [
        (start_ms + minute * M, 1.0, 2.0, 0.5, float(version), None) for minute in range(minutes)
    ]
    return bars, Covered(start_ms, start_ms + (minutes + 1) * M, Reason.DATA)


async def write(storage: SQLiteStorage, writer: int, number: int) -> None:
    """Page after page from `number` on, and after each a revision of the one before."""
    while True:
        for page, version in ((number, 0), (number - 1, 1)):
            bars, proven = page_of(writer, page, version)
            if page >= 0:
                await storage.store(series_of(writer), bars, [proven], at_ms=number)
                os.write(1, f"{writer} {page} {version}\n".encode())
        number += 1


async def child(path: Path, first: list[int]) -> None:
    storage = SQLiteStorage(path)
    await storage.open()
    await asyncio.gather(*(write(storage, writer, first[writer]) for writer in range(WRITERS)))


async def killed(path: Path, first: list[int], after: int) -> set[tuple[int, int, int]]:
    """What a child acknowledges until it is killed, some time after its `after`-th word."""
    program = [sys.executable, __file__, str(path), *map(str, first)]
    process = await asyncio.create_subprocess_exec(*program, stdout=PIPE)
    assert process.stdout is not None
    said = b""
    while said.count(b"\n") < after:
        chunk = await process.stdout.read(64)
        assert chunk, "the child ended by itself"
        said += chunk
    process.kill()
    rest, _ = await process.communicate()
    words = (said + rest).decode().split("\n")[:-1]
    return {(int(writer), int(page), int(version)) for writer, page, version in map(str.split, words)}


async def found(path: Path) -> set[tuple[int, int, int]]:
    """Every page there is, in its version; fails on a page that is not whole."""
    pages = set()
    storage = SQLiteStorage(path)
    await storage.open()
    try:
        for writer in range(WRITERS):
            bars, coverage = await storage.read(series_of(writer), EVER, limit=10_000_000)
            expected: list[Bar] = []
            for proven in coverage:
                number = (proven.start_ms - FIRST_MS) // (2 * LONGEST_PAGE * M)
                inside = [bar for bar in bars if proven.start_ms <= bar[0] < proven.end_ms]
                version = int(inside[0][4] or 0) if inside else 1
                page, whole = page_of(writer, number, version)
                assert proven == whole
                expected += page
                pages.add((writer, number, version))
            assert bars == expected
    finally:
        await storage.close()
    return pages


async def test_a_kill_loses_nothing_acknowledged_and_leaves_nothing_by_half(
    tmp_path: Path,
) -> None:
    path = tmp_path / "bars.db"
    chance = random.Random(8)  # noqa: S311
    acknowledged: dict[tuple[int, int], int] = {}
    first = [0] * WRITERS
    for _ in range(ROUNDS):
        for writer, page, version in await killed(path, first, after=chance.randint(1, 80)):
            acknowledged[writer, page] = max(version, acknowledged.get((writer, page), 0))
        there = {(writer, page): version for writer, page, version in await found(path)}
        lost = {page for page, version in acknowledged.items() if there.get(page, -1) < version}
        assert not lost
        # Each writer may have been killed between a commit and its word.
        assert len(there) - len(acknowledged) <= WRITERS
        acknowledged = there
        first = [
            max((page for w, page in there if w == writer), default=-1) + 1 for writer in range(WRITERS)
        ]
    assert len(acknowledged) > ROUNDS
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


if __name__ == "__main__":
    asyncio.run(child(Path(sys.argv[1]), [int(word) for word in sys.argv[2:]]))
