"""`marketd backfill`: real processes, against a real daemon."""

from __future__ import annotations

import asyncio
import os
import pty
import re
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from house import FLAWED, ODD, START, House, M, recorded
from test_cli import BTC, LONG_S, run, running

from marketd.client import MarketdClient
from marketd.config.kept import KeptConfig, Since
from marketd.config.settings import Millis
from marketd.domain.timeframe import Timeframe

NAMES = ("crypto", "sim", "BTC/USD")
YEARS = ("--since", "2014-01-01", "--before", "2024-01-01")
WEEK = Millis(7 * 1440 * M)
WEEKS = ("--since", str(START - 50_000 * M), "--before", str(START))


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    house = House(tmp_path)
    await house.open()
    yield house
    await house.close()


async def test_it_ends_with_what_it_has_brought_and_all_is_there(house: House) -> None:
    code, out, err = await run("backfill", BTC, "1m", *WEEKS, "--url", house.url)
    assert code == 0
    assert out == "done: 50,000 bars fetched, 50,000 new, 0 revised.\n"
    async with MarketdClient(house.url) as client:
        assert await client.gaps(*NAMES, "1m", since=START - 50_000 * M, before=START) == []
        (one,) = await client.backfills()
    assert err.splitlines()[0] == f"backfill {one.id} of {BTC} 1m has begun; Ctrl-C leaves it running."
    again = await run("backfill", BTC, "1m", *WEEKS, "--url", house.url)
    assert (again.code, again.out) == (0, "done: 0 bars fetched, 0 new, 0 revised.\n")
    repaired = await run("backfill", BTC, "1m", *WEEKS, "--repair", "--url", house.url)
    assert (repaired.code, repaired.out) == (0, "done: 50,000 bars fetched, 0 new, 0 revised.\n")


async def test_what_cannot_be_right_is_told(house: House) -> None:
    await house.close()
    await house.open(FLAWED)
    hour = ("--since", str(START), "--before", str(START + 10 * M))
    code, out, _ = await run("backfill", "odd/flawed/X", "1m", *hour, "--url", house.url)
    assert code == 0
    assert re.fullmatch(
        r"done: 9 bars fetched, 9 new, 0 revised, 1 ranges that cannot be right\.\n", out
    )


async def test_a_repair_tells_what_has_changed(house: House, tmp_path: Path) -> None:
    hour = ("--since", str(START), "--before", str(START + 10 * M))
    for text, options, told in (
        (ODD, (), "4 bars fetched, 4 new, 0 revised"),
        (ODD.replace("3,3,3,3,3", "3,4,3,3,3"), (), "0 bars fetched, 0 new, 0 revised"),
        (ODD.replace("3,3,3,3,3", "3,4,3,3,3"), ("--repair",), "4 bars fetched, 0 new, 1 revised"),
    ):
        await house.close()
        files = recorded(tmp_path)
        (tmp_path / "odd.csv").write_text(text, encoding="utf-8")
        await house.open(files)
        ended = await run("backfill", "odd/files/S0000", "1m", *hour, *options, "--url", house.url)
        assert (ended.code, ended.out) == (0, f"done: {told}.\n")


async def test_ctrl_c_leaves_it_running_and_says_how_to_end_it(house: House) -> None:
    async with running("backfill", BTC, "1m", *YEARS, "--url", house.url) as command:
        assert command.process.stderr is not None
        first = await asyncio.wait_for(command.process.stderr.readline(), LONG_S)
        command.process.send_signal(signal.SIGINT)
        code, out, err = await command.ended()
    begun = re.fullmatch(
        rf"backfill (\w+) of {BTC} 1m has begun; Ctrl-C leaves it running\.\n", first.decode()
    )
    assert begun is not None
    assert (code, out) == (1, "")
    assert "It goes on in the daemon." in err
    assert f"curl -X DELETE {house.url}/api/v1/backfills/{begun[1]}\n" in err
    async with MarketdClient(house.url) as client:
        assert (await client.backfill(begun[1])).state == "running"


async def test_detached_it_returns_at_once_and_goes_on(house: House) -> None:
    code, out, err = await run("backfill", BTC, "1m", *YEARS, "--detach", "--url", house.url)
    assert (code, err) == (0, "")
    begun = re.fullmatch(rf"backfill (\w+) of {BTC} 1m has begun\.\n", out)
    assert begun is not None
    async with MarketdClient(house.url) as client:
        one = await client.backfill(begun[1])
    assert one.state in ("pending", "running")


async def test_what_there_is_is_listed_with_how_far_it_is(house: House) -> None:
    assert await run("backfill", "--url", house.url) == (0, "", "no backfills.\n")
    kept = KeptConfig("sim", "crypto", ("BTC/USD",), Timeframe.parse("1d"), Since(ago_ms=WEEK))
    await house.close()
    await house.open(backfill=(kept,))
    async with MarketdClient(house.url) as client:
        done = await client.begin_backfill(*NAMES, "1m", since=START - 100 * M, before=START)
        paused = await client.begin_backfill(*NAMES, "1h", since=0, before=START)
        paused = await client.pause_backfill(paused.id)
        async with asyncio.timeout(LONG_S):
            while sum(one.has_ended for one in await client.backfills()) < 2:  # noqa: ASYNC110 - polled
                await asyncio.sleep(0.01)
        ids = [one.id for one in await client.backfills()]
    code, out, err = await run("backfill", "--url", house.url)
    assert (code, err) == (0, "")
    heading, *rows = [re.split(r"\s{2,}", line.strip()) for line in out.splitlines()]
    assert heading == [
        "id",
        "instrument",
        "timeframe",
        "since",
        "before",
        "state",
        "known",
        "bars",
        "left",
    ]
    assert [row[0] for row in rows] == ids
    (again,) = (row for row in rows if row[2] == "1d")
    assert again[5:] == ["done", "100%", "7", "-", "Again at 2024-03-05T15:30:30Z."]
    (listed,) = (row for row in rows if row[0] == paused.id)
    assert listed[1:3] + listed[5:6] == [BTC, "1h", "paused"]
    (listed,) = (row for row in rows if row[0] == done.id)
    assert listed[1:5] == [BTC, "1m", "2024-03-05T12:20:00Z", "2024-03-05T14:00:00Z"]
    assert listed[5:] == ["done", "100%", "100", "-"]


async def test_a_terminal_shows_a_bar_that_fills(house: House) -> None:
    controller, terminal = pty.openpty()
    shown = b""
    loop = asyncio.get_running_loop()
    try:
        async with (
            asyncio.timeout(LONG_S),
            running("backfill", BTC, "1m", *WEEKS, "--url", house.url, err=terminal) as command,
        ):
            while b"100%" not in shown:
                shown += await loop.run_in_executor(None, os.read, controller, 65_536)
            code, out, _ = await command.ended()
    finally:
        os.close(terminal)
        os.close(controller)
    assert (code, out) == (0, "done: 50,000 bars fetched, 50,000 new, 0 revised.\n")
    drawn = re.findall(r"\[(#*)-*\] +(\d+)% +([\d,]+) bars", shown.decode())
    assert len(drawn) >= 2
    known = [int(percent) for _, percent, _ in drawn]
    assert known == sorted(known)
    assert known[0] < known[-1] == 100
    assert len(drawn[0][0]) < len(drawn[-1][0])
    assert drawn[-1][2] == "50,000"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--since", "2024-01-01"), "Of which instrument?"),
        ((BTC,), "TIMEFRAME is missing."),
        ((BTC, "1m"), "--since is missing."),
    ],
)
async def test_what_is_missing_is_asked_for(arguments: tuple[str, ...], said: str) -> None:
    code, out, err = await run("backfill", *arguments)
    assert (code, out) == (2, "")
    assert said in err
