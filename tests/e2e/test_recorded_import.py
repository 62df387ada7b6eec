"""A year of real minutes through the commands, with its outages as its README tells them."""

from __future__ import annotations

from pathlib import Path

import aiohttp
import numpy as np
import pytest
from house import House
from test_cli import run

pytestmark = pytest.mark.recorded

FIRST, END = 1_546_300_800_000, 1_577_836_800_000  # the year 2019
NAMES = ("--market", "crypto", "--provider", "sim", "--symbol", "BTC/USD", "--timeframe", "1m")


async def test_a_year_of_minutes_goes_in_and_comes_out_with_its_gaps(
    recordings: Path, tmp_path: Path
) -> None:
    config = tmp_path / "store.toml"
    config.write_text(f'[storage]\nurl = "sqlite:///{tmp_path / "marketd.db"}"\n', encoding="utf-8")
    recording = recordings / "bars" / "bitfinex_BTCUSD_1m_2019.csv.gz"
    house = House(tmp_path)
    await house.open()
    try:
        into = await run("import", str(recording), *NAMES, "-c", str(config))
        assert into == (0, f"{recording.name}: 512,727 bars: 512,727 new\n", "")
        exported = tmp_path / "out.csv.gz"
        out = await run("export", str(exported), "-c", str(config))
        assert out == (0, f"{exported}: 512,727 bars\n", "")
        question = {
            "market": "crypto", "provider": "sim", "symbol": "BTC/USD", "timeframe": "1m",
            "since": FIRST, "before": END,
        }  # fmt: skip
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"{house.url}/api/v1/gaps", params=question) as response,
        ):
            gaps = (await response.json())["gaps"]
    finally:
        await house.close()
    there, here = (np.loadtxt(path, delimiter=",", skiprows=1) for path in (recording, exported))
    assert np.array_equal(there, here)
    assert len(gaps) == 9_955
    assert sum(gap["end"] - gap["start"] for gap in gaps) == 12_873 * 60_000
    assert {gap["reason"] for gap in gaps} == {"pending"}
