"""Power cuts: a store is recorded as it writes, and opened again from what a cut may have left of it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from marketd.domain.errors import StorageFailed
from marketd.storage.sqlite import SQLiteStorage
from soak.disk import Disk
from soak.pages import WRITERS, Page, Pages, found, page_of, series_of
from soak.recorder import Change, recording

_PAGES = 8  # of each writer, stored again and again
_NAME = "bars.db"
_SHARED_MEMORY_SIZE = 32_768
_MEMORY = Path("/dev/shm")  # noqa: S108 - what is left of a disk need not be on one


class Acknowledged(NamedTuple):
    """How many changes of the files had been made when a version of a page was acknowledged."""

    changes: int
    page: Page
    version: int


class Recording(NamedTuple):
    """What became of the files, and what was promised meanwhile."""

    changes: list[Change]
    acknowledged: list[Acknowledged]


def recorded(folder: Path, pages: int, chance: random.Random, *, lives: int = 2) -> Recording:
    """A store in `folder` that is opened, takes so many pages, and is closed, some times over."""
    acknowledged: list[Acknowledged] = []
    versions: Pages = {}

    async def write(storage: SQLiteStorage, writer: int) -> None:
        for _ in range(pages // WRITERS):
            page = (writer, chance.randrange(_PAGES))
            versions[page] = version = versions.get(page, -1) + 1
            bars, proven = page_of(*page, version)
            await storage.store(series_of(writer), bars, [proven], at_ms=version)
            if bars:  # of an empty page nobody can tell the version
                acknowledged.append(Acknowledged(len(changes), page, version))

    async def live() -> None:
        storage = SQLiteStorage(folder / _NAME)
        await storage.open()
        await asyncio.gather(*(write(storage, writer) for writer in range(WRITERS)))
        await storage.close()

    with recording(folder) as changes:
        for _ in range(lives):
            asyncio.run(live())
    return Recording(changes, acknowledged)


def cuts(
    recording: Recording, number: int, chance: random.Random, *, flushes: bool = True
) -> Iterator[Pages]:
    """Cuts the power so often, each time anywhere; yields the pages that are there when it is back.

    Raises AssertionError if something acknowledged is lost, is there by half, or is damaged.
    """
    disk = Disk(flushes=flushes)
    acknowledged: Pages = {}
    promised = iter(recording.acknowledged)
    promise = next(promised, None)
    done = 0
    memory = _MEMORY if _MEMORY.is_dir() else None
    with TemporaryDirectory(prefix="marketd-", dir=memory) as folder, asyncio.Runner() as runner:
        for moment in sorted(chance.choices(range(len(recording.changes) + 1), k=number)):
            for change in recording.changes[done:moment]:
                disk.apply(change)
            done = moment
            while promise is not None and promise.changes <= moment:
                acknowledged[promise.page] = promise.version
                promise = next(promised, None)
            _lay_out(disk.cut(chance), Path(folder), chance)
            there = runner.run(_opened(Path(folder) / _NAME))
            lost = {page for page, version in acknowledged.items() if there.get(page, -1) < version}
            assert not lost, f"cut after {moment} changes: acknowledged and lost: {lost}"
            yield there


def _lay_out(files: Mapping[str, bytes], folder: Path, chance: random.Random) -> None:
    """Leaves in `folder` these files alone, and perhaps shared memory with anything in it."""
    for old in folder.iterdir():
        old.unlink()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    if chance.random() < 0.5:
        (folder / f"{_NAME}-shm").write_bytes(chance.randbytes(_SHARED_MEMORY_SIZE))


async def _opened(path: Path) -> Pages:
    """Opens what is left; fails on anything that is not whole."""
    storage = SQLiteStorage(path)
    try:
        await storage.open()
        checkup = await storage.check()
        assert not checkup.problems, f"damaged: {checkup.problems}"
        return await found(storage)
    except StorageFailed as error:
        raise AssertionError(f"damaged: {error.message}") from error
    finally:
        await storage.close()
