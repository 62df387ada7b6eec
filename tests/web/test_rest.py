"""What the addresses answer to a question that makes sense."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import aiohttp
import pytest
from asking import NOW, START, Api, M, configured
from prometheus_client.parser import text_string_to_metric_families

from marketd.clock import ManualClock
from marketd.daemon import Daemon

SERIES = {"market": "crypto", "provider": "sim", "symbol": "BTC/USD", "timeframe": "1m"}


def times(bars: Iterable[list[float]]) -> list[float]:
    return [bar[0] for bar in bars]


async def test_markets_are_listed_with_their_providers(api: Api) -> None:
    assert await api.get("/api/v1/markets") == {
        "markets": [
            {"market": "crypto", "providers": ["sim"]},
            {"market": "odd", "providers": ["files"]},
            {"market": "us_equity", "providers": ["sim"]},
        ]
    }


async def test_providers_are_listed_with_what_they_can_and_how_they_are(api: Api) -> None:
    await api.ohlcv()
    (sim,) = (await api.get("/api/v1/providers", market="crypto"))["providers"]
    assert sim["provider"] == sim["plugin"] == "sim"
    assert sim["markets"] == ["crypto", "us_equity"]
    assert sim["timeframes"] == ["1s", "1m", "1d"]
    assert sim["health"] == {"state": "up", "message": ""}
    everyone = (await api.get("/api/v1/providers"))["providers"]
    assert [one["provider"] for one in everyone] == ["sim", "files"]


async def test_symbols_are_found_by_a_part_of_their_name_whatever_its_case(api: Api) -> None:
    found = await api.get("/api/v1/symbols", market="crypto", provider="sim", query="bItCoIn")
    assert [one["symbol"] for one in found["symbols"]] == ["BTC/USD", "DOGE/BTC"]
    assert found["symbols"][0] == {
        "symbol": "BTC/USD",
        "market": "crypto",
        "name": "Bitcoin (simulated)",
        "base": "BTC",
        "quote": "USD",
        "first": 1_262_304_000_000,
        "last": None,
    }


async def test_without_a_market_the_symbols_of_all_are_told_with_theirs(api: Api) -> None:
    found = (await api.get("/api/v1/symbols", provider="sim"))["symbols"]
    assert {one["market"] for one in found} == {"crypto", "us_equity"}
    crypto = (await api.get("/api/v1/symbols", provider="sim", market="crypto"))["symbols"]
    assert [one for one in found if one["market"] == "crypto"] == crypto


async def test_a_provider_says_its_limits_and_what_may_be_configured_but_no_value(api: Api) -> None:
    sim, files = (await api.get("/api/v1/providers"))["providers"]
    assert sim["limits"] == {"page": 10_000, "concurrency": 4, "rate": None}
    speed = sim["schemas"]["settings"]["properties"]["speed"]
    assert (speed["type"], speed["default"]) == ("number", 1.0)
    assert sim["schemas"]["params"]["properties"] == {}
    assert sim["schemas"]["params"]["additionalProperties"] is False
    settings = files["schemas"]["settings"]
    assert settings["required"] == ["path"]
    (reference,) = settings["properties"]["series"]["items"].values()
    assert settings["$defs"][reference.rpartition("/")[2]]["properties"]["timeframe"]["pattern"]
    assert "odd.csv" not in str(files)


@pytest.mark.parametrize("market", [{}, {"market": "crypto"}])
@pytest.mark.parametrize("limit", [1, 2, 3, 4, 5])
async def test_the_pages_of_symbols_are_all_symbols_once_each(
    api: Api, limit: int, market: dict[str, str]
) -> None:
    whole = await api.get("/api/v1/symbols", provider="sim", **market)
    assert whole["next_page_token"] is None
    pages: list[dict[str, str]] = []
    token: dict[str, str] = {}
    while True:
        page = await api.get("/api/v1/symbols", provider="sim", limit=limit, **market, **token)
        assert len(page["symbols"]) <= limit
        pages += page["symbols"]
        if page["next_page_token"] is None:
            break
        token = {"page_token": page["next_page_token"]}
    assert pages == whole["symbols"]


async def test_without_since_the_last_bars_come_and_the_newest_is_the_forming_one(api: Api) -> None:
    answer = await api.ohlcv()
    assert {key: answer[key] for key in SERIES} == SERIES
    assert times(answer["bars"]) == list(range(START - 469 * M, START + 31 * M, M))
    assert (await api.ohlcv(limit=3))["bars"] == answer["bars"][-3:]
    assert answer["complete"] is True
    assert answer["gaps"] == []
    assert "filled" not in answer


async def test_the_forming_bar_moves_with_the_clock_and_the_closed_ones_stay(
    api: Api, clock: ManualClock
) -> None:
    before = (await api.ohlcv(limit=2))["bars"]
    clock.advance(29_999)
    after = (await api.ohlcv(limit=2))["bars"]
    assert before[0] == after[0]
    assert before[1][:2] == after[1][:2]
    assert before[1][5] < after[1][5]
    clock.advance(1)
    closed = (await api.ohlcv(limit=1, before=NOW))["bars"]
    assert closed[0][:2] == after[1][:2]


class Restless(ManualClock):
    """Goes on by a millisecond whenever somebody looks at it."""

    def now_ms(self) -> int:
        self.set(super().now_ms() + 1)
        return super().now_ms()


async def test_the_newest_bars_are_new_even_if_an_interval_ends_while_they_are_asked_for(
    tmp_path: Path,
) -> None:
    clock = Restless(NOW)
    daemon = Daemon(configured(tmp_path), clock=clock)
    await daemon.start()
    try:
        async with aiohttp.ClientSession(daemon.url) as session:
            api = Api(session)
            for early_ms in range(1, 30):
                end_ms = START + (30 + early_ms) * M
                for query in ({}, {"since": end_ms - 5 * M}):
                    clock.set(end_ms - early_ms)
                    before = await api.ohlcv("BTC/USD", "1m", **query)
                    assert before["bars"][-1][0] in (end_ms - M, end_ms)
                    clock.set(end_ms + 30_000)
                    after = await api.ohlcv("BTC/USD", "1m", **query)
                    assert after["bars"][-1][0] == end_ms
    finally:
        await daemon.stop()


async def test_with_since_the_first_bars_from_there_come_and_before_is_exclusive(api: Api) -> None:
    window = {"since": START, "before": START + 5 * M}
    answer = await api.ohlcv(**window)
    assert times(answer["bars"]) == [START + minute * M for minute in range(5)]
    assert answer["next_page_token"] is None
    first = await api.ohlcv(**window, limit=2)
    assert first["bars"] == answer["bars"][:2]
    last = await api.ohlcv(before=window["before"], limit=2)
    assert last["bars"] == answer["bars"][-2:]


async def test_an_empty_range_has_no_bars_and_lacks_none(api: Api) -> None:
    for since in (START, START + 1):
        answer = await api.ohlcv(since=since, before=START + 1)
        assert answer["bars"] == ([await bar_at(api, START)] if since == START else [])
        assert answer["complete"] is True
    assert (await api.ohlcv(since=START, before=START))["bars"] == []


async def bar_at(api: Api, t_ms: int) -> list[float]:
    (bar,) = (await api.ohlcv(since=t_ms, before=t_ms + M))["bars"]
    return bar  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    "spelling",
    [
        "2024-03-05T14:00:00Z",
        "2024-03-05T14:00:00.000Z",
        "2024-03-05t14:00:00z",
        "2024-03-05 14:00:00+00:00",
        "2024-03-05T15:30:00+01:30",
        "2024-03-05T09:00:00-05:00",
    ],
)
async def test_a_time_is_the_same_in_rfc_3339_and_in_milliseconds(api: Api, spelling: str) -> None:
    moment = datetime.fromtimestamp(START / 1000, UTC)
    assert datetime.fromisoformat(spelling.upper()) == moment
    before = moment.astimezone(timezone(timedelta(hours=-3))) + timedelta(minutes=7)
    spelt = await api.ohlcv(since=spelling, before=before.isoformat())
    assert spelt == await api.ohlcv(since=START, before=START + 7 * M)
    assert len(spelt["bars"]) == 7


@pytest.mark.parametrize("timeframe", ["1m", "7m", "1h", "1d"])
@pytest.mark.parametrize("limit", [1, 4, 50])
@pytest.mark.parametrize("fill", [{}, {"fill": "prev"}])
async def test_pages_forwards_and_backwards_are_exactly_the_whole(
    api: Api, timeframe: str, limit: int, fill: dict[str, str]
) -> None:
    span_ms = {"1m": 60 * M, "7m": 600 * M, "1h": 3_000 * M, "1d": 40 * 1440 * M}[timeframe]
    series = ("DOGE/BTC", timeframe)
    # Rows are filled in from the first bar on: it is where both ways meet.
    since = (await api.ohlcv(*series, since=NOW - span_ms))["bars"][0][0]
    whole = (await api.ohlcv(*series, since=since, limit=10_000, **fill))["bars"]

    forwards: list[list[float]] = []
    token: dict[str, str] = {}
    while True:
        page = await api.ohlcv(*series, since=since, limit=limit, **fill, **token)
        assert len(page["bars"]) <= limit
        forwards += page["bars"]
        if page["next_page_token"] is None:
            break
        token = {"page_token": page["next_page_token"]}
    assert forwards == whole

    backwards: list[list[float]] = []
    token = {}
    while not backwards or backwards[0][0] > since:
        page = await api.ohlcv(*series, limit=limit, **fill, **token)
        assert len(page["bars"]) <= limit
        backwards = [*page["bars"], *backwards]
        token = {"page_token": page["next_page_token"]}
    assert [row for row in backwards if row[0] >= since] == whole


async def test_no_row_is_made_up_unless_it_is_asked_for_and_then_it_says_so(api: Api) -> None:
    bare = await api.ohlcv("ODD")
    assert times(bare["bars"]) == [START + minute * M for minute in (0, 1, 2, 4, 5, 9)]
    assert bare["complete"] is True
    filled_times = [START + minute * M for minute in (3, 6, 7, 8)]
    for how in ("null", "prev"):
        filled = await api.ohlcv("ODD", fill=how)
        assert filled["filled"] == filled_times
        assert times(filled["bars"]) == [START + minute * M for minute in range(10)]
        assert [bar for bar in filled["bars"] if bar[0] not in filled_times] == bare["bars"]
        (row,) = [bar for bar in filled["bars"] if bar[0] == START + 6 * M]
        close = None if how == "null" else 123456789.12345679
        assert row[1:5] == [close] * 4
        assert row[5] == (None if how == "null" else 0.0)


async def test_what_is_not_a_number_keeps_its_meaning(api: Api) -> None:
    bars = (await api.ohlcv("ODD"))["bars"]
    assert [bar[1:] for bar in bars] == [
        [1.5, 2.0, 0.5, 1.25, 10.0],
        [None, None, None, None, None],
        ["NaN", "NaN", "NaN", "NaN", "NaN"],
        [1.0, "Infinity", "-Infinity", 1e-7, 0.0],
        [0.1, 1e22, 0.1, 123456789.12345679, None],
        [1.0, "NaN", None, 1.0, "Infinity"],
    ]


@pytest.mark.parametrize("symbol", ["a/b?c=d&e", "“☃” %2F"])
async def test_a_symbol_is_served_by_the_very_name_it_is_listed_under(api: Api, symbol: str) -> None:
    listed = await api.get("/api/v1/symbols", market="odd", provider="files", query=symbol)
    assert [one["symbol"] for one in listed["symbols"]] == [symbol]
    assert (await api.ohlcv(symbol))["bars"] == (await api.ohlcv("ODD"))["bars"]


async def test_gaps_are_what_nobody_has_answered_for_and_asking_asks_nobody(api: Api) -> None:
    window = {"since": START - 60 * M, "before": START}
    nothing = {"gaps": [{"start": START - 60 * M, "end": START, "reason": "pending"}]}
    for _ in range(2):
        assert await api.get("/api/v1/gaps", **SERIES, **window) == nothing
    await api.ohlcv(since=START - 30 * M, before=START - 10 * M)
    gaps = (await api.get("/api/v1/gaps", **SERIES, **window))["gaps"]
    assert [(gap["start"], gap["end"]) for gap in gaps] == [
        (START - 60 * M, START - 30 * M),
        (START - 10 * M, START),
    ]


async def test_the_process_says_that_it_lives_and_is_ready(api: Api, daemon: Daemon) -> None:
    assert await api.get("/healthz") == {"status": "ok"}
    ready = await api.get("/readyz")
    assert ready["status"] == "ready"
    errors = {one["plugin"]: one["error"] for one in ready["plugins"]}
    # Whatever else is installed beside them works, too.
    assert errors.keys() >= {"sim", "replay"}
    assert not any(errors.values())
    assert {one["provider"] for one in ready["providers"]} == {"sim", "files"}
    daemon._serves = False
    async with api.session.get("/readyz") as response:
        assert response.status == 503
        assert (await response.json())["status"] == "not_ready"


async def test_the_root_leads_to_the_description(api: Api) -> None:
    async with api.session.get("/", allow_redirects=False) as response:
        assert response.status == 302
        assert response.headers["Location"] == "/docs"


async def test_metrics_count_requests_by_route_and_never_by_what_a_client_wrote(api: Api) -> None:
    await api.ohlcv()
    for path in ("/", "/wp-admin", "/api/v1/ohlcv?x=1", "/%0A%22}", "/api/v1/nothing/BTC"):
        async with api.session.get(path, allow_redirects=False):
            pass
    async with api.session.request("BREW", "/api/v1/ohlcv"):
        pass
    async with api.session.post("/api/v1/ohlcv"):
        pass
    async with api.session.get("/metrics") as response:
        assert response.content_type == "text/plain"
        text = await response.text()
    families = {family.name: family for family in text_string_to_metric_families(text)}
    counted = {
        (one.labels["method"], one.labels["route"], one.labels["status"]): one.value
        for one in families["marketd_http_requests"].samples
        if one.name.endswith("_total")
    }
    assert counted == {
        ("GET", "/api/v1/ohlcv", "200"): 1,
        ("GET", "/api/v1/ohlcv", "400"): 1,
        ("GET", "/", "302"): 1,
        ("GET", "unknown", "404"): 3,
        ("POST", "unknown", "405"): 1,
    }
    timed = {one.labels["route"] for one in families["marketd_http_request_seconds"].samples}
    assert timed == {"/api/v1/ohlcv", "/", "unknown"}
    assert "admin" not in text
    assert "BREW" not in text
