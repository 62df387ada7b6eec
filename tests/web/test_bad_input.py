"""Whatever a client asks gets an answer that says what is wrong with it, and never a 500."""

from __future__ import annotations

import logging
from typing import Any

import pytest
from asking import NOW, START, Api, M
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from marketd.domain.timerange import MAX_MS
from marketd.domain.token import pack

OHLCV, GAPS = "/api/v1/ohlcv", "/api/v1/gaps"
SYMBOLS, PROVIDERS = "/api/v1/symbols", "/api/v1/providers"
SERIES = {"market": "crypto", "provider": "sim", "symbol": "BTC/USD", "timeframe": "1m"}
LISTING = {"market": "crypto", "provider": "sim"}
ROUTES = [
    "/healthz",
    "/readyz",
    "/metrics",
    "/openapi.json",
    "/docs",
    "/api/v1/markets",
    "/api/v1/providers",
    "/api/v1/symbols",
    "/api/v1/ohlcv",
    "/api/v1/gaps",
    "/api/v1/stream",
    "/",
]


@pytest.fixture(autouse=True)
def nothing_goes_wrong_inside(caplog: pytest.LogCaptureFixture) -> Any:
    """A client's mistake is no mistake of the daemon's: its log has no error of any."""
    yield
    assert [record for record in caplog.records if record.levelno >= logging.ERROR] == []


NAMES = {
    "market": ["moon", "CRYPTO", "us_equity "],
    "provider": ["nobody", "SIM", "x" * 64],
    "symbol": [
        *("BTC/EUR", "btc/usd", " BTC/USD", "SPY", "%2F", "../../etc/passwd", "x" * 128),
        *("\0", "\r\nX: y", "'; DROP TABLE bar; --", '"<script>', "💥" * 64, "\u202eUSD/BTC\u200f"),
    ],
}


@pytest.mark.parametrize("path", [OHLCV, GAPS])
@pytest.mark.parametrize("field", list(NAMES))
async def test_a_name_that_nobody_has_is_a_404(api: Api, path: str, field: str) -> None:
    for name in NAMES[field]:
        problem = await api.refused(404, path, SERIES | {field: name})
        assert problem["code"] == f"unknown_{field}"


UNFIT: dict[str, list[Any]] = {
    "market": ["", "x" * 65],
    "provider": ["", "x" * 65],
    "symbol": ["", "x" * 129],
    "timeframe": [
        *("", "m", "1", "0m", "-1m", "01m", "1.5m", "1 m", "1min", "1m\n", "１m", "1000000s"),
        *("11y", "121M", "523w", "3661d"),
    ],
    "since": [
        *("", "now", "1.5", "1e3", "0x10", "--1", "9" * 41, "１２３", "null", "NaN"),
        *("2024-03-05", "2024-03-05T14:00:00", "2024-02-30T00:00:00Z", "2024-03-05T25:00Z"),
        *(-1, MAX_MS, "1724-01-01T00:00:00Z", "2324-01-01T00:00:00Z", "9999-12-31T23:59Z"),
    ],
    "before": ["tomorrow", -1, MAX_MS, "1969-12-31T23:59:59.999Z", "2100-01-01T00:00:00Z"],
    # Neither sim nor this address takes them.
    "colour": ["red", ""],
    "Symbol": ["BTC/USD"],
    "params": ["x"],
}
LIMITS = [0, -1, 10_001, 10**9, "1e9", "1.0", "", "ten", " 7", "+7", "1_0", "٧", "9" * 5000]


async def refuses(api: Api, path: str, query: dict[str, Any], field: str) -> None:
    problem = await api.refused(400, path, query)
    assert problem["code"] == "invalid_input"
    assert problem["field"] == field
    assert problem["detail"].startswith(f"{field} ")


@pytest.mark.parametrize("path", [OHLCV, GAPS])
@pytest.mark.parametrize("field", list(UNFIT))
async def test_what_does_not_fit_is_a_400_that_names_the_field(api: Api, path: str, field: str) -> None:
    for value in UNFIT[field]:
        await refuses(api, path, SERIES | {field: value}, field)


@pytest.mark.parametrize(("path", "query"), [(OHLCV, SERIES), (SYMBOLS, LISTING)])
async def test_a_limit_is_a_plain_number_from_1_to_10000(
    api: Api, path: str, query: dict[str, str]
) -> None:
    for limit in LIMITS:
        await refuses(api, path, query | {"limit": limit}, "limit")


async def test_a_fill_is_null_or_prev(api: Api) -> None:
    for fill in ("", "zero", "NULL", "Prev"):
        await refuses(api, OHLCV, SERIES | {"fill": fill}, "fill")


@pytest.mark.parametrize(
    ("path", "query"), [(OHLCV, SERIES), (GAPS, SERIES), (SYMBOLS, {"provider": "sim"})]
)
async def test_what_is_missing_is_named(api: Api, path: str, query: dict[str, str]) -> None:
    for missing in query:
        rest = {key: value for key, value in query.items() if key != missing}
        await refuses(api, path, rest, missing)


async def test_a_key_that_an_address_does_not_know_is_a_400(api: Api) -> None:
    for path in ROUTES:
        if path not in (OHLCV, GAPS, SYMBOLS):
            await refuses(api, path, {"x": "1"}, "x")
    for key in ("limit", "page_token", "fill"):
        await refuses(api, GAPS, SERIES | {key: "1"}, key)
    await refuses(api, SYMBOLS, LISTING | {"symbol": "BTC/USD"}, "symbol")
    await refuses(api, SYMBOLS, LISTING | {"query": "x" * 129}, "query")
    await refuses(api, PROVIDERS, {"market": ""}, "market")


async def test_a_market_that_nobody_serves_has_neither_providers_nor_symbols(api: Api) -> None:
    assert (await api.refused(404, PROVIDERS, {"market": "moon"}))["code"] == "unknown_market"
    assert (await api.refused(404, SYMBOLS, LISTING | {"market": "moon"}))["code"] == "unknown_market"
    assert (await api.refused(404, SYMBOLS, LISTING | {"provider": "x"}))["code"] == "unknown_provider"


@pytest.mark.parametrize("path", [OHLCV, GAPS])
@pytest.mark.parametrize("since", [NOW, "2024-03-05T14:30:30Z"])
async def test_since_after_before_is_a_400_that_names_since(
    api: Api, path: str, since: str | int
) -> None:
    problem = await api.refused(400, path, SERIES | {"since": since, "before": NOW - 1})
    assert problem["field"] == "since"
    assert problem["detail"] == "since must not be after before."


async def test_a_key_given_twice_is_a_400_even_if_both_agree(api: Api) -> None:
    for path in ROUTES:
        problem = await api.refused(400, path, [*SERIES.items(), ("market", "crypto")])
        assert problem["field"] == "market"
        assert "more than once" in problem["detail"]


TOKENS = [
    *("", "x" * 401, "x" * 400, "x", "=", "AAAA", "é", "💥", "bnVsbA"),
    *(pack("before", text) for text in ("", "-1", "١", str(MAX_MS + 1), "9" * 200)),
    *(pack(kind, str(START)) for kind in ("since", "symbol", "cursor")),
    *(f"{pack('before', str(START))}!", pack("before", str(START))[1:]),
]


async def test_a_page_token_that_was_not_given_for_the_question_is_a_400(api: Api) -> None:
    for token in TOKENS:
        problem = await api.refused(400, OHLCV, SERIES | {"page_token": token})
        assert problem["field"] == "page_token"


async def test_a_token_of_another_direction_or_route_is_a_400(api: Api) -> None:
    backwards = (await api.ohlcv(limit=1))["next_page_token"]
    forwards = (await api.ohlcv(limit=1, since=START))["next_page_token"]
    since = SERIES | {"since": str(START)}
    for query in (SERIES | {"page_token": forwards}, since | {"page_token": backwards}):
        assert (await api.refused(400, OHLCV, query))["field"] == "page_token"
    problem = await api.refused(400, SYMBOLS, LISTING | {"page_token": backwards})
    assert problem["field"] == "page_token"


async def test_an_address_that_leads_nowhere_is_a_404(api: Api) -> None:
    for path in ("/nothing", "/api", "/api/v1/", "/api/v1/ohlcv/", "/healthz/x", "/☃"):
        assert (await api.refused(404, path))["code"] == "not_found"


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"])
async def test_a_method_that_an_address_does_not_take_is_a_405_that_allows_get(
    api: Api, method: str
) -> None:
    for path in ROUTES:
        async with api.session.request(method, path) as response:
            assert response.headers["Allow"] == "GET"
        problem = await api.refused(405, path, method=method)
        assert problem["code"] == "method_not_allowed"


async def test_head_is_a_405_without_a_body(api: Api) -> None:
    for path in ROUTES:
        async with api.session.head(path, allow_redirects=False) as response:
            assert response.status == 405
            assert response.headers["Allow"] == "GET"
            assert response.content_type == "application/problem+json"
            assert await response.read() == b""


async def test_the_stream_is_no_place_for_plain_http(api: Api) -> None:
    problem = await api.refused(426, "/api/v1/stream")
    assert problem["code"] == "upgrade_required"
    async with api.session.get("/api/v1/stream") as response:
        assert response.headers["Upgrade"] == "websocket"


@pytest.mark.parametrize(
    "query",
    [
        {"timeframe": "10y", "fill": "prev", "limit": 10_000},
        {"timeframe": "10y", "fill": "null", "limit": 10_000, "since": 0},
        {"timeframe": "120M", "fill": "prev", "limit": 10_000, "before": MAX_MS - 1},
        {"timeframe": "520w", "fill": "prev", "limit": 10_000, "since": MAX_MS - 1},
        {"timeframe": "1d", "since": 0, "before": MAX_MS - 1, "limit": 1},
        {"timeframe": "1d", "since": MAX_MS - 1},
        {"timeframe": "1d", "before": 0},
        {"timeframe": "7y", "page_token": pack("before", "0")},
        {"timeframe": "1y", "page_token": pack("before", str(MAX_MS))},
        {"timeframe": "1y", "since": 0, "page_token": pack("since", str(MAX_MS))},
        {"since": START, "before": START + M, "page_token": pack("since", str(NOW))},
    ],
)
async def test_the_ends_of_time_are_no_mistake(api: Api, query: dict[str, Any]) -> None:
    answer = await api.get(OHLCV, **SERIES | query)
    assert len(answer["bars"]) <= query.get("limit", 500)


anything = st.text(st.characters(codec="utf-8"), max_size=40)
likely = {
    "market": st.sampled_from(["crypto", "us_equity", "odd"]),
    "provider": st.sampled_from(["sim", "files"]),
    "symbol": st.sampled_from(["BTC/USD", "SPY", "ODD"]),
    "timeframe": st.sampled_from(["1m", "5m", "1d", "1w", "1M", "3M", "10y", "7d"]),
    "since": st.integers(0, MAX_MS).map(str) | st.datetimes().map(lambda t: f"{t.isoformat()}Z"),
    "before": st.integers(0, MAX_MS).map(str),
    "limit": st.integers(-2, 12_000).map(str),
    "page_token": st.builds(pack, st.sampled_from(["since", "before"]), st.integers(0, MAX_MS).map(str)),
    "fill": st.sampled_from(["null", "prev"]),
}
queries = st.fixed_dictionaries(
    {key: value if key in SERIES else st.none() | value for key, value in likely.items()}
).flatmap(
    # A question that makes sense, with some of it replaced by anything.
    lambda sense: st.dictionaries(st.sampled_from(list(likely)) | anything, anything, max_size=2).map(
        lambda nonsense: {k: v for k, v in {**sense, **nonsense}.items() if v is not None}
    )
)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(query=queries)
async def test_no_query_is_answered_by_anything_but_bars_or_a_problem(
    api: Api, query: dict[str, str]
) -> None:
    async with api.session.get(OHLCV, params=query) as response:
        status = response.status
        body = await response.json()
    if status == 200:
        assert body["market"] == query["market"]
    else:
        # 501 is a timeframe so long that no bar of it can be made of what the provider has.
        assert status in (400, 404, 501), body
        await api.refused(status, OHLCV, query)
