"""`python -m soak.writer`: a process that imports everything once, and forks writers that can be killed.

Each line on its input, a file and the page at which each writer begins, forks a child. On its output
it says `started <pid>`, then the child's own words `<writer> <page> <version>`, one for each page that
has been acknowledged, then `ended <exit code>`.
"""

from __future__ import annotations

import asyncio
import os
import sys
import traceback
from pathlib import Path

from marketd.storage.sqlite import SQLiteStorage
from soak.pages import WRITERS, page_of, series_of


def _say(words: str) -> None:
    # One unbuffered write of less than a pipe's atomic size: a kill cannot cut it.
    os.write(1, f"{words}\n".encode())


async def _write(storage: SQLiteStorage, writer: int, number: int) -> None:
    """Page after page from `number` on, and after each a revision of the one before."""
    while True:
        for page, version in ((number, 0), (number - 1, 1)):
            if page >= 0:
                bars, proven = page_of(writer, page, version)
                await storage.store(series_of(writer), bars, [proven], at_ms=number)
                _say(f"{writer} {page} {version}")
        number += 1


async def _child(path: Path, first: list[int]) -> None:
    storage = SQLiteStorage(path)
    await storage.open()
    await asyncio.gather(*(_write(storage, writer, first[writer]) for writer in range(WRITERS)))


def main() -> None:
    for line in sys.stdin:
        path, *first = line.rstrip("\n").split("\t")
        pid = os.fork()
        if pid == 0:
            try:
                asyncio.run(_child(Path(path), [int(number) for number in first]))
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(1)  # a child never returns into its parent's loop
        _say(f"started {pid}")
        _, status = os.waitpid(pid, 0)
        _say(f"ended {os.waitstatus_to_exitcode(status)}")


if __name__ == "__main__":
    main()
