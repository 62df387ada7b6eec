"""Ready answers: the same as fresh ones, and gone as soon as a bar in them changes."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Mapping
from itertools import count
from pathlib import Path
from typing import Any

import aiohttp
import orjson
import pytest
from aiohttp import web
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted import INSTRUMENT, MINUTE, M, bar

from marketd.config import Config, ProviderConfig, ServerConfig, StorageConfig
from marketd.daemon import Daemon
from marketd.domain.bar import Bar, select
from marketd.domain.instrument import Instrument, Series
from marketd.domain.resample import resample
from marketd.domain.timeframe import Timeframe
from marketd.domain.timerange import TimeRange
from marketd.encoding import to_json
from marketd.market.service import Stable
from marketd.storage import Change
from marketd.web.ready import ReadyAnswers

SERIES = Series(INSTRUMENT, MINUTE)
OTHER = Series(Instrument("crypto", "test", "ETH/USD"), MINUTE)
BITCOIN = Series(Instrument("crypto", "sim", "BTC/USD"), MINUTE)
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


def test_a_question_comes_again_if_it_came_among_the_last_thousands() -> None:
    answers = ReadyAnswers(1_000)
    assert [answers.comes_again(question) for question in "abab"] == [False, False, True, True]
    assert not any(answers.comes_again(f"{number}") for number in range(5_000))
    assert not answers.comes_again("a")


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


def test_the_least_used_are_givenup_beyond_the_bound() -> None:
    answers = ReadyAnswers(1_000)
    for index in range(10):
        answers.keep(f"{index}", response(100), stable(0, 10))
    answers.find("0")
    answers.keep("10", response(100), stable(0, 10))
    assert answers.find("0") is not None
    assert answers.find("1") is None
    answers.keep("large", response(500), stable(0, 10))
    assert answers.find("large") is None


async def started(folder: Path) -> Daemon:
    config = Config(
        server=ServerConfig(port=0),
        storage=StorageConfig(url=f"sqlite:///{folder}/a.db"),
        providers={"sim": ProviderConfig("sim", "sim", {"start": START + 600 * M}, {})},
    )
    daemon = Daemon(config)
    await daemon.start()
    return daemon


@pytest.fixture
async def daemon(tmp_path: Path) -> AsyncIterator[Daemon]:
    daemon = await started(tmp_path)
    yield daemon
    await daemon.stop()


async def test_a_revision_is_in_the_very_next_answer(daemon: Daemon) -> None:
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
        await daemon.storage.store(BITCOIN, [(START + 9 * M, *revised[1:])], [], at_ms=START)
        changed = await ask()
        assert changed != first
        assert "12345.0" in (await ask(Accept="text/csv"))[0]


_ASKS = st.fixed_dictionaries(
    {
        "timeframe": st.sampled_from(["1m", "5m", "15m"]),
        "since": st.sampled_from([None, 0, 37]),
        "before": st.sampled_from([100, 240]),
        "limit": st.sampled_from([20, 300]),
    }
)
_REVISIONS = st.tuples(st.integers(0, 239), st.sampled_from([1.0, 2.5, None, math.nan, math.inf]))


def test_every_answer_is_the_uncached_one_however_often_it_was_asked_for(tmp_path: Path) -> None:
    """Questions that come again and again, and bars that are revised in between."""
    # Each example begins on a day of its own, of which nothing was kept.
    starts = count(START - 1_000 * 1440 * M, 1440 * M)

    async def take(daemon: Daemon, questions: list[dict[str, Any]], steps: list[Any]) -> None:
        start_ms = next(starts)
        async with aiohttp.ClientSession(daemon.url) as session:
            for step in steps:
                if isinstance(step, tuple):
                    minute, close = step
                    revised: Bar = (start_ms + minute * M, None, None, None, close, 1.0)
                    await daemon.storage.store(BITCOIN, [revised], [], at_ms=START)
                    continue
                asks = questions[step % len(questions)]
                times = {
                    key: start_ms + asks[key] * M for key in ("since", "before") if asks[key] is not None
                }
                query = {"market": "crypto", "provider": "sim", "symbol": "BTC/USD"} | asks | times
                asked = {key: value for key, value in query.items() if value is not None}
                async with session.get("/api/v1/ohlcv", params=asked) as response:
                    told = orjson.loads(await response.read())
                assert told["complete"]
                assert told["bars"] == orjson.loads(to_json(await uncached(daemon, query)))

    with asyncio.Runner() as runner:
        daemon = runner.run(started(tmp_path))

        @settings(max_examples=40)
        @given(st.lists(_ASKS, min_size=1, max_size=2), st.lists(st.integers(0, 1) | _REVISIONS))
        def check(questions: list[dict[str, Any]], steps: list[Any]) -> None:
            runner.run(take(daemon, questions, steps))

        try:
            check()
        finally:
            runner.run(daemon.stop())


async def uncached(daemon: Daemon, query: Mapping[str, Any]) -> list[Bar]:
    """The bars of an answer, made of what the store holds."""
    timeframe, since = Timeframe.parse(query["timeframe"]), query["since"]
    before_ms = timeframe.ceil(query["before"])
    first_ms = before_ms - 2 * query["limit"] * timeframe.nominal_ms if since is None else since
    span = TimeRange(timeframe.ceil(first_ms), before_ms)
    stored = await daemon.storage.read(BITCOIN, span, limit=50_000)
    return list(select(resample(stored.bars, timeframe), since=since, limit=query["limit"]))


async def test_the_newest_bars_are_never_a_ready_answer(daemon: Daemon) -> None:
    url = f"{daemon.url}/api/v1/ohlcv?market=crypto&provider=sim&symbol=BTC/USD&timeframe=1s&limit=3"
    async with aiohttp.ClientSession() as session:
        seen = set()
        begun = time.monotonic()
        while len(seen) < 3 and time.monotonic() - begun < 20:
            async with session.get(url) as answer:
                seen.add(await answer.text())
        assert len(seen) == 3
