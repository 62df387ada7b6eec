"""Ready answers: the same as fresh ones, and gone as soon as a bar in them changes."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st
from scripted import INSTRUMENT, MINUTE, M, bar

from marketd.config import Config, ProviderConfig, ServerConfig, StorageConfig
from marketd.daemon import Daemon
from marketd.domain.instrument import Instrument, Series
from marketd.domain.timerange import TimeRange
from marketd.market.service import Stable
from marketd.storage import Change
from marketd.web.ready import ReadyAnswers

SERIES = Series(INSTRUMENT, MINUTE)
OTHER = Series(Instrument("crypto", "test", "ETH/USD"), MINUTE)
START = 1_709_596_800_000


def response(size: int = 10) -> web.Response:
    return web.Response(body=b"x" * size, content_type="text/csv", headers={"Vary": "Accept"})


def stable(start: int, end: int, series: Series = SERIES) -> Stable:
    return Stable(series, TimeRange(start, end))


def test_an_answer_comes_back_as_it_was_given() -> None:
    answers = ReadyAnswers(1_000)
    answers.keep("q", response(), stable(0, 10))
    found = answers.find("q")
    assert found is not None
    assert (found.body, found.content_type, found.headers["Vary"]) == (b"x" * 10, "text/csv", "Accept")
    assert answers.find("p") is None


@given(
    st.lists(st.tuples(st.integers(0, 40), st.integers(1, 20)), max_size=15),
    st.integers(0, 50),
    st.integers(1, 20),
)
def test_a_change_takes_away_what_it_touches_and_nothing_else(
    kept: list[tuple[int, int]], at: int, length: int
) -> None:
    answers = ReadyAnswers(1_000_000)
    for index, (start, size) in enumerate(kept):
        answers.keep(f"{index}", response(), stable(start, start + size))
        answers.keep(f"other {index}", response(), stable(start, start + size, OTHER))
    answers.changed(Change(SERIES, TimeRange(at, at + length), False))
    for index, (start, size) in enumerate(kept):
        touched = start < at + length and at < start + size
        assert (answers.find(f"{index}") is None) is touched
        assert answers.find(f"other {index}") is not None


def test_changes_that_were_missed_take_away_everything() -> None:
    answers = ReadyAnswers(1_000)
    answers.keep("q", response(), stable(0, 10))
    answers.keep("other", response(), stable(0, 10, OTHER))
    begun_with = answers.changes
    answers.changed(None)
    assert (answers.find("q"), answers.find("other")) == (None, None)
    assert answers.changes != begun_with


def test_the_least_used_are_given_up_beyond_the_bound() -> None:
    answers = ReadyAnswers(1_000)
    for index in range(10):
        answers.keep(f"{index}", response(100), stable(0, 10))
    answers.find("0")
    answers.keep("10", response(100), stable(0, 10))
    assert answers.find("0") is not None
    assert answers.find("1") is None
    answers.keep("large", response(500), stable(0, 10))
    assert answers.find("large") is None


@pytest.fixture
async def daemon(tmp_path: Path) -> AsyncIterator[Daemon]:
    config = Config(
        server=ServerConfig(port=0),
        storage=StorageConfig(url=f"sqlite:///{tmp_path}/a.db"),
        providers={"sim": ProviderConfig("sim", "sim", {"start": START + 600 * M}, {})},
    )
    daemon = Daemon(config)
    await daemon.start()
    yield daemon
    await daemon.stop()


async def test_a_revision_is_in_the_very_next_answer(daemon: Daemon) -> None:
    series = Series(Instrument("crypto", "sim", "BTC/USD"), MINUTE)
    query = {
        "market": "crypto",
        "provider": "sim",
        "symbol": "BTC/USD",
        "timeframe": "5m",
        "since": str(START),
        "before": str(START + 60 * M),
    }
    async with aiohttp.ClientSession() as session:

        async def ask(**headers: str) -> tuple[str, str]:
            async with session.get(
                f"{daemon.url}/api/v1/ohlcv", params=query, headers=headers
            ) as answer:
                return await answer.text(), answer.headers["Content-Type"]

        first = await ask()
        assert [await ask() for _ in range(3)] == [first] * 3
        csv = await ask(Accept="text/csv")
        assert csv[1].startswith("text/csv")
        assert await ask(Accept="text/csv") == csv
        assert await ask() == first
        revised = bar(0, close=12_345.0)
        await daemon.storage.store(series, [(START + 9 * M, *revised[1:])], [], at_ms=START)
        changed = await ask()
        assert changed != first
        assert "12345.0" in (await ask(Accept="text/csv"))[0]


async def test_the_newest_bars_are_never_a_ready_answer(daemon: Daemon) -> None:
    url = f"{daemon.url}/api/v1/ohlcv?market=crypto&provider=sim&symbol=BTC/USD&timeframe=1s&limit=3"
    async with aiohttp.ClientSession() as session:
        seen = set()
        begun = time.monotonic()
        while len(seen) < 3 and time.monotonic() - begun < 20:
            async with session.get(url) as answer:
                seen.add(await answer.text())
        assert len(seen) == 3
