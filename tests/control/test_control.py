"""The control socket: the store of a daemon as its local commands have it."""

from __future__ import annotations

import asyncio
import math
import os
import socket
import stat
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from scripted import INSTRUMENT, MINUTE, START, M, bar

from marketd.control import wire
from marketd.control.address import reachable, socket_beside
from marketd.control.client import NobodyListens, RemoteStore, connected
from marketd.control.server import ControlServer
from marketd.domain.bar import Bar
from marketd.domain.coverage import Covered, Reason
from marketd.domain.errors import Conflict, StorageFailed
from marketd.domain.instrument import Instrument, Series
from marketd.domain.timerange import MAX_MS, MIN_MS, TimeRange
from marketd.storage import Change
from marketd.storage.sqlite import SQLiteStorage

SERIES = Series(INSTRUMENT, MINUTE)
EVER = TimeRange(MIN_MS, MAX_MS)
ODD: list[Bar] = [
    (START, 1.5, 2.0, 0.5, 1.25, 10.0),
    (START + M, None, None, None, None, None),
    (START + 2 * M, math.nan, math.inf, -math.inf, math.nan, 0.0),
]
PROVEN = [
    Covered(START, START + 3 * M, Reason.DATA),
    Covered(START + 3 * M, START + 5 * M, Reason.CLOSED),
]


@pytest.fixture
def database(tmp_path: Path) -> Path:
    return tmp_path / "bars.db"


@pytest.fixture
async def storage(database: Path) -> AsyncIterator[SQLiteStorage]:
    storage = SQLiteStorage(database)
    await storage.open()
    yield storage
    await storage.close()


@pytest.fixture
async def server(database: Path, storage: SQLiteStorage) -> AsyncIterator[ControlServer]:
    server = ControlServer(storage, socket_beside(database))
    await server.open()
    yield server
    await server.close()


@pytest.fixture
async def remote(server: ControlServer, database: Path) -> AsyncIterator[RemoteStore]:
    async with connected(socket_beside(database)) as remote:
        yield remote


async def test_what_is_stored_and_read_over_it_is_what_the_store_has(
    remote: RemoteStore, storage: SQLiteStorage
) -> None:
    stored = await remote.store(SERIES, ODD, PROVEN, at_ms=START)
    assert (stored.inserted, stored.revised) == (3, [])
    here = await storage.read(SERIES, EVER, limit=9)
    there = await remote.read(SERIES, EVER, limit=9)
    assert repr(here) == repr(there)
    assert there.coverage == PROVEN
    assert repr(there.bars) == repr(ODD)
    newest = await remote.read(SERIES, EVER, limit=1, newest=True)
    assert repr(newest.bars) == repr(ODD[-1:])


async def test_a_revision_is_told_as_the_store_tells_it(remote: RemoteStore) -> None:
    await remote.store(SERIES, [bar(0)], PROVEN, at_ms=START)
    changed: Bar = (START, 7.0, 7.0, 7.0, 7.0, 7.0)
    assert (await remote.store(SERIES, [changed], [], at_ms=START)).revised == [(changed, 1)]


async def test_every_series_is_listed_with_its_variant(remote: RemoteStore) -> None:
    other = Series(Instrument("m", "p", "ä/b"), MINUTE, "adjustment=split")
    await remote.store(SERIES, [bar(0)], [], at_ms=START)
    await remote.store(other, [bar(0)], [], at_ms=START)
    assert await remote.series_list() == [SERIES, other]


async def test_listeners_of_the_store_are_told_of_what_a_command_writes(
    remote: RemoteStore, storage: SQLiteStorage
) -> None:
    told: list[Change | None] = []
    storage.listen(told.append)
    await remote.store(SERIES, [bar(0)], [], at_ms=START)
    assert told == [Change(SERIES, TimeRange(START, START + 1), is_revision=False)]


async def test_bars_that_are_none_are_refused_and_nothing_is_stored(remote: RemoteStore) -> None:
    for wrong in [(START + 1, 1.0, 1.0, 1.0, 1.0, 1.0), (START, 1.0, 0.5, 1.0, 1.0, 1.0), (START,)]:
        with pytest.raises(StorageFailed, match="no valid bars"):
            await remote.store(SERIES, [wrong], PROVEN, at_ms=START)  # type: ignore[list-item]
    assert await remote.read(SERIES, EVER, limit=9) == ([], [])


@pytest.mark.parametrize("body", [b"", b"\xc1", wire.pack(None), wire.pack([1, 2, 3, 4]), wire.pack({})])
@pytest.mark.parametrize("what", ["store", "read", "backup"])
async def test_what_cannot_be_understood_is_refused_with_a_sentence(
    server: ControlServer, database: Path, what: str, body: bytes
) -> None:
    with reachable(socket_beside(database)) as address:
        connector = aiohttp.UnixConnector(address)
        async with (
            aiohttp.ClientSession(connector=connector) as session,
            session.post(f"http://x/{what}", data=body) as response,
        ):
            assert response.status == 400
            code, message = wire.unpack(await response.read())
    assert (code, message.count("\n")) == ("invalid_input", 0)


async def test_only_the_same_user_may_use_it(server: ControlServer, database: Path) -> None:
    mode = socket_beside(database).stat().st_mode
    assert stat.S_ISSOCK(mode)
    assert stat.S_IMODE(mode) == 0o600


async def test_it_goes_when_it_is_closed(database: Path, storage: SQLiteStorage) -> None:
    server = ControlServer(storage, socket_beside(database))
    await server.open()
    await server.close()
    assert not socket_beside(database).exists()
    with pytest.raises(NobodyListens):
        async with connected(socket_beside(database)):
            pass


async def test_one_that_a_killed_daemon_left_is_replaced(database: Path, storage: SQLiteStorage) -> None:
    path = socket_beside(database)
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    with pytest.raises(NobodyListens):
        async with connected(path):
            pass
    server = ControlServer(storage, path)
    await server.open()
    async with connected(path) as remote:
        assert await remote.series_list() == []
    await server.close()


async def test_a_file_of_that_name_is_left_alone_and_the_store_goes_on(
    database: Path, storage: SQLiteStorage, caplog: pytest.LogCaptureFixture
) -> None:
    path = socket_beside(database)
    path.write_text("mine", encoding="utf-8")
    server = ControlServer(storage, path)
    await server.open()
    await server.close()
    assert path.read_text(encoding="utf-8") == "mine"
    assert "no control socket" in caplog.text


async def test_a_path_too_long_for_a_socket_is_reached_all_the_same(tmp_path: Path) -> None:
    database = tmp_path.joinpath(*["x" * 60] * 4) / "bars.db"
    storage = SQLiteStorage(database)
    await storage.open()
    server = ControlServer(storage, socket_beside(database))
    await server.open()
    assert len(os.fsencode(socket_beside(database))) > 107
    async with connected(socket_beside(database)) as remote:
        await remote.store(SERIES, [bar(0)], [], at_ms=START)
    await server.close()
    assert not socket_beside(database).exists()
    await storage.close()


async def test_a_name_too_long_for_a_socket_costs_only_the_commands(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    database = tmp_path / f"{'x' * 150}.db"
    storage = SQLiteStorage(database)
    await storage.open()
    server = ControlServer(storage, socket_beside(database))
    await server.open()
    with pytest.raises(NobodyListens):
        async with connected(socket_beside(database)):
            pass
    await server.close()
    await storage.close()
    assert "no control socket" in caplog.text


async def test_a_daemon_that_goes_away_is_told(server: ControlServer, remote: RemoteStore) -> None:
    await server.close()
    with pytest.raises(StorageFailed, match="went away"):
        await remote.series_list()


async def test_a_backup_that_is_there_already_stays_unless_it_is_to_be_replaced(
    remote: RemoteStore, tmp_path: Path
) -> None:
    await remote.store(SERIES, ODD, PROVEN, at_ms=START)
    target = tmp_path / "copy.db"
    await remote.back_up(target, replace=False)
    first = target.read_bytes()
    await remote.store(SERIES, [bar(7)], [], at_ms=START)
    with pytest.raises(Conflict, match="--force"):
        await remote.back_up(target, replace=False)
    assert target.read_bytes() == first
    await remote.back_up(target, replace=True)
    assert target.read_bytes() != first


async def test_writes_and_reads_go_on_during_a_backup_which_is_of_one_instant(
    storage: SQLiteStorage, tmp_path: Path
) -> None:
    page = [bar(minute) for minute in range(5_000)]
    for number in range(20):
        await storage.store(Series(INSTRUMENT, MINUTE, f"{number}"), page, [], at_ms=START)
    target = tmp_path / "copy.db"
    backing_up = asyncio.create_task(storage.back_up(target, replace=False))
    written = 0
    while not backing_up.done():
        await storage.store(SERIES, [bar(written)], [], at_ms=START)
        written += 1
        assert len((await storage.read(SERIES, EVER, limit=written + 1)).bars) == written
    await backing_up
    copy = SQLiteStorage(target)
    await copy.open()
    kept = (await copy.read(SERIES, EVER, limit=written + 1)).bars
    assert (await copy.check()).problems == []
    await copy.close()
    assert written > 1
    assert kept == [bar(number) for number in range(len(kept))]
    assert len(kept) < written


async def test_a_command_that_goes_away_ends_its_backup(
    server: ControlServer, database: Path, storage: SQLiteStorage, tmp_path: Path
) -> None:
    for day in range(40):
        page = [bar(day * 1440 + minute) for minute in range(1440)]
        await storage.store(SERIES, page, [], at_ms=START)
    target = tmp_path / "copy.db"

    def unfinished() -> list[Path]:
        return list(tmp_path.glob(".copy.db.*"))

    async with connected(socket_beside(database)) as remote:
        backing_up = asyncio.create_task(remote.back_up(target, replace=False))
        while not unfinished():  # noqa: ASYNC110 - a file has no event
            await asyncio.sleep(0)
        backing_up.cancel()
        await asyncio.wait([backing_up])
    await server.close()
    assert not unfinished()
    assert backing_up.cancelled() or target.exists()
