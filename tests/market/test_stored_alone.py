"""What is stored is served while its provider cannot be opened, and says honestly what it lacks."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from house import SIM, START, House, M, recorded

SERIES = {"market": "odd", "provider": "files", "symbol": "S0001", "timeframe": "1m"}


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    """A daemon that has read a recording of six minutes, and was started again without the file."""
    house = House(tmp_path)
    files = recorded(tmp_path)
    await house.open(files, SIM)
    status, answer = await ask(house, "ohlcv", since=START, before=START + 6 * M)
    assert (status, answer["complete"]) == (200, True)
    await house.close()
    (tmp_path / "odd.csv").unlink()
    await house.open(files, SIM)
    yield house
    await house.close()


async def ask(house: House, what: str, **query: Any) -> tuple[int, Any]:
    url = f"{house.url}/api/v1/{what}"
    async with aiohttp.ClientSession() as session, session.get(url, params=SERIES | query) as response:
        return response.status, await response.json()


async def test_a_range_that_is_proven_is_whole(house: House) -> None:
    status, answer = await ask(house, "ohlcv", since=START, before=START + 6 * M)
    assert status == 200
    assert [bar[0] for bar in answer["bars"]] == [START + minute * M for minute in (0, 1, 2, 5)]
    assert answer["complete"]


async def test_a_range_beyond_it_comes_with_its_gap(house: House) -> None:
    status, answer = await ask(house, "ohlcv", since=START, before=START + 20 * M)
    assert (status, len(answer["bars"]), answer["complete"]) == (200, 4, False)
    gap = {"start": START + 6 * M, "end": START + 20 * M, "reason": "feed_down"}
    assert answer["gaps"] == [gap]
    assert (await ask(house, "gaps", since=START, before=START + 20 * M))[1]["gaps"] == [gap]


async def test_coarser_bars_are_made_of_it(house: House) -> None:
    since, before = START, START + 5 * M
    status, answer = await ask(house, "ohlcv", since=since, before=before, timeframe="5m")
    assert (status, len(answer["bars"]), answer["complete"]) == (200, 1, True)


@pytest.mark.parametrize("other", [{"symbol": "S0002"}, {"timeframe": "1s"}])
async def test_what_is_not_stored_is_the_provider_s_failure(house: House, other: Any) -> None:
    status, problem = await ask(house, "ohlcv", since=START, before=START + 6 * M, **other)
    assert (status, problem["code"]) in {(502, "provider_failed"), (503, "not_ready")}
