"""Extensions: a route or an ear that fails, or hangs, costs only itself."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from marshmallow import Schema, fields

from marketd.clock import ManualClock
from marketd.config import Config, ServerConfig, StorageConfig, UpstreamConfig
from marketd.daemon import Daemon
from marketd.domain.errors import Conflict
from marketd.domain.instrument import Instrument, Series
from marketd.domain.timeframe import Timeframe
from marketd.domain.timerange import TimeRange
from marketd.metrics import Metrics
from marketd.plugins import Extension, Route, hookimpl
from marketd.plugins.hearing import Hearer
from marketd.plugins.loader import PluginLoader
from marketd.ratelimit import RateLimiters

NOW, M = 1_709_647_230_000, 60_000
FAILURES = "marketd_extension_failures_total"


class Query(Schema):
    depth = fields.Integer(load_default=1)


class AnswerOut(Schema):
    depth = fields.Integer(required=True)


class Odd(Extension):
    """Has a route for each way to answer, and hears badly."""

    def routes(self) -> Sequence[Route]:
        return [
            Route("well", "What was asked", self.well, Query, AnswerOut),
            Route("told", "A failure that is meant", self.told),
            Route("deep/er", "A failure that is not", self.fails),
            Route("odd", "No JSON", self.odd),
            Route("hangs", "Nothing, ever", self.hangs),
        ]

    async def well(self, query: Mapping[str, Any]) -> Any:
        return {"depth": query["depth"]}

    async def told(self, query: Mapping[str, Any]) -> Any:
        raise Conflict("Not now.")

    async def fails(self, query: Mapping[str, Any]) -> Any:
        raise ValueError("https://vendor/?key=secret")

    async def odd(self, query: Mapping[str, Any]) -> Any:
        return object()

    async def hangs(self, query: Mapping[str, Any]) -> Any:
        await asyncio.Event().wait()

    async def bars_stored(self, series: Series, span: TimeRange) -> None:
        raise ValueError("https://vendor/?key=secret")


@hookimpl
def marketd_extensions() -> Sequence[Extension]:
    return [Odd()]


def entries(module: str = __name__) -> list[EntryPoint]:
    return [
        EntryPoint("sim", "marketd.plugins.sim", "marketd"),
        EntryPoint("odd", module, "marketd"),
    ]


@pytest.fixture
async def daemon(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Daemon]:
    """A daemon; a parameter is how long one of its requests may take (ms)."""
    config = Config(
        server=ServerConfig(port=0, request_timeout=getattr(request, "param", 30_000)),
        storage=StorageConfig(url=f"sqlite:///{tmp_path / 'marketd.db'}"),
    )
    daemon = Daemon(config, clock=ManualClock(NOW), found=entries)
    await daemon.start()
    yield daemon
    await daemon.stop()


async def get(daemon: Daemon, path: str, **query: Any) -> tuple[int, Any]:
    async with (
        aiohttp.ClientSession(daemon.url) as session,
        session.get(path, params=query) as response,
    ):
        return response.status, await response.json()


async def test_a_route_answers_below_its_plugin_s_name_and_its_query_is_checked(daemon: Daemon) -> None:
    path = "/api/v1/plugins/odd/well"
    assert await get(daemon, path) == (200, {"depth": 1})
    assert await get(daemon, path, depth="7") == (200, {"depth": 7})
    for query in ({"depth": "x"}, {"width": "1"}):
        status, problem = await get(daemon, path, **query)
        assert (status, problem["code"], problem["field"]) == (400, "invalid_input", *query)


@pytest.mark.parametrize("daemon", [200], indirect=True)
async def test_a_route_that_fails_or_hangs_costs_only_itself(
    daemon: Daemon, caplog: pytest.LogCaptureFixture
) -> None:
    for name, wanted in {
        "told": (409, "Not now."),
        "deep/er": (502, "The plugin odd failed with ValueError."),
        "odd": (502, "The plugin odd failed with TypeError."),
        "hangs": (504, "The plugin odd did not answer within 0.2 s."),
    }.items():
        status, problem = await get(daemon, f"/api/v1/plugins/odd/{name}")
        assert (status, problem["detail"]) == wanted
        assert (await get(daemon, "/healthz"))[0] == 200
    assert daemon.metrics.registry.get_sample_value(FAILURES, {"plugin": "odd"}) == 4
    assert not [one for one in caplog.records if one.levelno >= logging.ERROR]
    assert "secret" not in caplog.text


async def test_routes_are_in_the_description_of_the_interface(daemon: Daemon) -> None:
    _, document = await get(daemon, "/openapi.json")
    described = document["paths"]["/api/v1/plugins/odd/well"]["get"]
    assert described["summary"] == "What was asked"
    assert described["operationId"] == "get_odd_well"
    assert [one["name"] for one in described["parameters"]] == ["depth"]
    (schema,) = described["responses"]["200"]["content"].values()
    assert "Answer" in json.dumps(schema)
    assert "/api/v1/plugins/odd/deep/er" in document["paths"]


async def test_an_ear_that_fails_keeps_no_bar_from_anybody(
    daemon: Daemon, caplog: pytest.LogCaptureFixture
) -> None:
    names = {"market": "crypto", "provider": "sim", "symbol": "BTC/USD", "timeframe": "1m"}
    for end in (9, 8, 7):
        query = {"since": NOW - 10 * M, "before": NOW - end * M}
        _, answer = await get(daemon, "/api/v1/ohlcv", **names, **query)
        assert answer["complete"]
    async with asyncio.timeout(20):
        while not daemon.metrics.registry.get_sample_value(FAILURES, {"plugin": "odd"}):  # noqa: ASYNC110
            await asyncio.sleep(0.01)
    told = [one.getMessage() for one in caplog.records if "failed to hear" in one.getMessage()]
    assert told == ["plugin failed to hear of bars plugin=odd error=ValueError"]


SERIES = [
    Series(Instrument("crypto", "sim", symbol), Timeframe.parse("1m"))
    for symbol in ("BTC/USD", "ETH/USD")
]


class Slow(Extension):
    """Hears when it is let, and hangs when it is told to."""

    def __init__(self) -> None:
        self.heard: list[tuple[Series, TimeRange]] = []
        self.may_go_on = asyncio.Event()

    async def bars_stored(self, series: Series, span: TimeRange) -> None:
        self.heard.append((series, span))
        await self.may_go_on.wait()


async def heard(extension: Slow, count: int) -> None:
    async with asyncio.timeout(20):
        while len(extension.heard) < count:  # noqa: ASYNC110 - a list has no event
            await asyncio.sleep(0)


async def test_what_is_stored_while_an_ear_is_busy_is_told_together() -> None:
    extension = Slow()
    hearer = Hearer("slow", extension, timeout_s=60, metrics=Metrics())
    running = asyncio.create_task(hearer.run())
    hearer.tell(SERIES[0], TimeRange(0, M))
    await heard(extension, 1)
    for minute in range(1, 1_000):
        hearer.tell(SERIES[minute % 2], TimeRange(minute * M, (minute + 1) * M))
    extension.may_go_on.set()
    await heard(extension, 3)
    assert extension.heard == [
        (SERIES[0], TimeRange(0, M)),
        (SERIES[1], TimeRange(M, 1_000 * M)),
        (SERIES[0], TimeRange(2 * M, 999 * M)),
    ]
    running.cancel()
    await asyncio.wait([running])


async def test_an_ear_that_hangs_is_given_up_and_hears_the_next() -> None:
    extension, metrics = Slow(), Metrics()
    hearer = Hearer("slow", extension, timeout_s=0.01, metrics=metrics)
    running = asyncio.create_task(hearer.run())
    for series in SERIES:
        hearer.tell(series, TimeRange(0, M))
    await heard(extension, 2)
    assert metrics.registry.get_sample_value(FAILURES, {"plugin": "slow"}) == 1
    running.cancel()
    await asyncio.wait([running])


WRONG = {
    "no_extension": "return [1]",
    "no_list": "return None",
    "no_route": "return [With([1])]",
    "a_wrong_path": "return [With([Route('/x', '', None)])]",
    "a_path_twice": "return [With(2 * [Route('x', '', None)])]",
}
HEAD = """
from marketd.plugins import Extension, Route, hookimpl

class With(Extension):
    def __init__(self, routes):
        self._routes = routes

    def routes(self):
        return self._routes

@hookimpl
def marketd_extensions():
    """


@pytest.mark.parametrize("name", WRONG)
def test_a_plugin_whose_extensions_are_none_is_reported_and_the_rest_runs(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / f"extension_{name}.py").write_text(HEAD + WRONG[name])
    loader = PluginLoader(
        clock=ManualClock(0),
        upstream=UpstreamConfig(),
        metrics=Metrics(),
        limiter=RateLimiters("", Metrics()).limiter,
        found=lambda: entries(f"extension_{name}"),
    )
    loader.load({})
    sim, wrong = loader.reports
    assert wrong.error
    assert not sim.error
    assert not loader.extensions
