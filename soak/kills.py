"""Kills a writer at random moments, and holds what it acknowledged against what its file has."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from subprocess import PIPE

from marketd.storage.sqlite import SQLiteStorage
from soak.pages import WRITERS, Pages, found

ROOT = Path(__file__).resolve().parents[1]

_MOST_WORDS = 20
_LONGEST_PAUSE_S = 0.02  # several transactions


class Victims:
    """Writers over a file, one after the other, each living until it is killed."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def killed(self, path: Path, first: list[int], chance: random.Random) -> Pages:
        """What a writer acknowledges until it is killed; `first` is the page that each begins at.

        It dies some milliseconds after some number of words, none among them: while it opens the
        file, within a transaction or between two, on a machine of any speed.
        """
        assert self._process.stdin is not None
        print(path, *first, sep="\t", file=self._process.stdin, flush=True)
        words = chance.randint(0, _MOST_WORDS)
        pid: int | None = None
        pages: Pages = {}
        while (said := self._said())[0] != "ended":
            if said[0] == "started":
                pid = int(said[1])
            else:
                writer, page, version = map(int, said)
                pages[writer, page] = version
                words -= 1
            if pid is not None and words <= 0:
                time.sleep(chance.uniform(0, _LONGEST_PAUSE_S))
                os.kill(pid, signal.SIGKILL)
                pid = None
                words = sys.maxsize
        assert int(said[1]) == -signal.SIGKILL, f"a writer ended by itself: {said[1]}"
        return pages

    def _said(self) -> list[str]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the process that forks the writers ended by itself"
        return line.split()


@contextmanager
def victims() -> Iterator[Victims]:
    """Writers to kill, until the block ends."""
    program = [sys.executable, "-m", "soak.writer"]
    with subprocess.Popen(program, cwd=ROOT, stdin=PIPE, stdout=PIPE, text=True) as process:
        try:
            yield Victims(process)
        finally:
            # Without a reader a writer that still lives ends at its next word, and its parent too.
            process.kill()


def kills(victims: Victims, path: Path, number: int, chance: random.Random) -> Iterator[Pages]:
    """Kills that many writers of one file; after each, yields the pages that were found there.

    Raises AssertionError if something acknowledged is lost, or anything is there by half.
    """
    there: Pages = {}
    for _ in range(number):
        first = [
            max((page for w, page in there if w == writer), default=-1) + 1 for writer in range(WRITERS)
        ]
        acknowledged = victims.killed(path, first, chance)
        before, there = there, asyncio.run(_opened(path))
        lost = {
            page
            for pages in (before, acknowledged)
            for page, version in pages.items()
            if there.get(page, -1) < version
        }
        assert not lost, f"acknowledged and lost: {lost}"
        # Each writer may have been killed between a commit and its word.
        unsaid = there.keys() - before.keys() - acknowledged.keys()
        assert len(unsaid) <= WRITERS, f"there and never acknowledged: {unsaid}"
        yield there
    with closing(sqlite3.connect(path)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",), f"{path} is damaged"


async def _opened(path: Path) -> Pages:
    storage = SQLiteStorage(path)
    await storage.open()
    try:
        return await found(storage)
    finally:
        await storage.close()
