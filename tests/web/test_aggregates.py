"""Bringing aggregates up to date over HTTP."""

from __future__ import annotations

from typing import Any

import pytest
from aiohttp import ClientSession
from asking import START, M

from marketd.client import MarketdClient, MarketdClientError
from marketd.daemon import Daemon
from marketd.domain.timerange import MAX_MS, MIN_MS, TimeRange
from marketd.market.aggregates import Aggregates, Wanted

PATH = "/api/v1/aggregates/refresh"
BTC = ("crypto", "sim", "BTC/USD")


@pytest.fixture
async def filled(daemon: Daemon) -> Daemon:
    """A daemon that has stored a day of minutes of two symbols."""
    async with MarketdClient(daemon.url) as client:
        for symbol in ("BTC/USD", "ETH/USD"):
            since = START - 1440 * M
            page = await client.ohlcv(
                "crypto", "sim", symbol, "1m", since=since, before=START, limit=5_000
            )
            assert len(page.bars) > 1_400
    return daemon


async def test_a_refresh_computes_what_is_stored_and_the_next_nothing(filled: Daemon) -> None:
    async with MarketdClient(filled.url) as client:
        one = await client.refresh_aggregates(*BTC, "1m", since=START - 60 * M)
        assert (one.buckets > 0, one.complete) == (True, True)
        before = await client.ohlcv(*BTC, "1h", since=START - 1440 * M, before=START)
        rest = await client.refresh_aggregates()
        assert rest.buckets > one.buckets
        assert (await client.refresh_aggregates("crypto")).buckets == 0
        assert await client.ohlcv(*BTC, "1h", since=START - 1440 * M, before=START) == before


async def test_what_is_not_stored_is_nothing_to_do(filled: Daemon) -> None:
    async with MarketdClient(filled.url) as client:
        for names in (("forex",), (None, "other"), (None, None, "btc/usd"), (None, None, None, "1d")):
            done = await client.refresh_aggregates(*names)
            assert (done.buckets, done.complete) == (0, True)


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({"market": 5}, "market"),
        ({"symbol": ""}, "symbol"),
        ({"timeframe": "1x"}, "timeframe"),
        ({"timeframe": None}, "timeframe"),
        ({"since": "yesterday"}, "since"),
        ({"since": START, "before": START - 1}, "since"),
        ({"nonsense": 1}, "nonsense"),
        (["market"], "body"),
        ("market", "body"),
    ],
)
async def test_a_body_that_does_not_fit_is_a_problem_that_names_the_field(
    daemon: Daemon, body: Any, field: str
) -> None:
    async with ClientSession(daemon.url) as session, session.post(PATH, json=body) as answer:
        assert (answer.status, (await answer.json())["field"]) == (400, field)
        assert answer.content_type == "application/problem+json"


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"{", "application/json"),
        (b"\xff\xfe", "application/json"),
        (b"{}", "text/plain"),
        (b"market=crypto", "application/x-www-form-urlencoded"),
    ],
)
async def test_a_body_that_is_no_json_is_refused(daemon: Daemon, content: bytes, kind: str) -> None:
    headers = {"Content-Type": kind}
    async with ClientSession(daemon.url) as session:
        async with session.post(PATH, data=content, headers=headers) as answer:
            problem = await answer.json()
            assert (answer.status, problem["code"], problem["field"]) == (400, "invalid_input", "body")
        async with session.post(PATH) as answer:
            assert await answer.json() == {"buckets": 0, "complete": True}
        async with session.post(f"{PATH}?market=crypto") as answer:
            assert (answer.status, (await answer.json())["field"]) == (400, "market")
        async with session.get(PATH) as answer:
            assert (answer.status, answer.headers["Allow"]) == (405, "POST")


async def test_the_client_raises_what_the_daemon_refuses(daemon: Daemon) -> None:
    async with MarketdClient(daemon.url) as client:
        with pytest.raises(MarketdClientError) as refusal:
            await client.refresh_aggregates(timeframe="1x")
        assert refusal.value.field == "timeframe"


async def test_a_refresh_for_which_there_is_no_time_says_so(filled: Daemon) -> None:
    service = Aggregates(filled.storage, request_timeout_ms=0)
    assert not (await service.refresh(Wanted(), TimeRange(MIN_MS, MAX_MS))).complete
