"""`marketd backfill`: real processes, against a real daemon."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from house import FLAWED, START, House, M
from test_cli import BTC, run

from marketd.client import MarketdClient

NAMES = ("crypto", "sim", "BTC/USD")
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
    assert err.splitlines()[0] == f"backfill {one.id} of {BTC} 1m has begun."
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
