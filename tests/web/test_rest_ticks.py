"""What `GET /api/v1/ticks` answers."""

from __future__ import annotations

import csv
import io
from typing import Any

import pyarrow as pa
from asking import NOW, START, Api

from marketd.domain.tickframe import TickBarMaker, Tickframe
from marketd.domain.timeframe import DAY_MS

BTC = {"market": "crypto", "provider": "sim", "symbol": "BTC/USD"}


async def ticks(api: Api, **query: Any) -> dict[str, Any]:
    return await api.get("/api/v1/ticks", **BTC, **query)


async def test_trades_are_answered_in_order_and_make_up_the_bars(api: Api) -> None:
    answer = await ticks(api, since=START, before=START + 60_000, limit=10_000)
    assert {key: answer[key] for key in BTC} == BTC
    assert (answer["complete"], answer["gaps"], answer["next_page_token"]) == (True, [], None)
    times = [tick[0] for tick in answer["ticks"]]
    assert times == sorted(times)
    (bar,) = (await api.ohlcv(since=START, before=START + 60_000))["bars"]
    prices = [tick[1] for tick in answer["ticks"]]
    assert [prices[0], max(prices), min(prices), prices[-1]] == bar[1:5]


async def test_without_since_they_are_the_last_ones_and_pages_go_back(api: Api) -> None:
    newest = await ticks(api, limit=3)
    assert newest["complete"]
    assert newest["ticks"][-1][0] <= NOW
    older = await ticks(api, limit=3, page_token=newest["next_page_token"])
    both = await ticks(api, limit=6)
    assert older["ticks"] + newest["ticks"] == both["ticks"]


async def test_other_formats_say_the_same(api: Api) -> None:
    query = BTC | {"since": START, "limit": 5}
    answer = await api.get("/api/v1/ticks", **query)
    headers = {"Accept": "text/csv"}
    async with api.session.get("/api/v1/ticks", params=query, headers=headers) as response:
        heading, *rows = csv.reader(io.StringIO(await response.text()))
        assert response.headers["Marketd-Complete"] == "true"
        assert response.headers["Marketd-Next-Page-Token"] == answer["next_page_token"]
    assert heading == ["timestamp_ms", "price", "size", "side", "trade_id"]
    assert [[int(t), float(p), float(s), side, name] for t, p, s, side, name in rows] == answer["ticks"]
    headers = {"Accept": "application/vnd.apache.arrow.stream"}
    async with api.session.get("/api/v1/ticks", params=query, headers=headers) as response:
        table = pa.ipc.open_stream(await response.read()).read_all()
    assert table.column_names == heading
    assert table["trade_id"].to_pylist() == [tick[4] for tick in answer["ticks"]]
    assert table["price"].to_pylist() == [tick[1] for tick in answer["ticks"]]


async def test_bars_are_made_of_so_many_trades_or_so_much_volume(api: Api) -> None:
    doge = BTC | {"symbol": "DOGE/BTC"}
    midnight = START - START % DAY_MS
    answer = await api.get("/api/v1/ticks", **doge, since=midnight, before=START, limit=10_000)
    for frame in ("50t", "20000v"):
        maker = TickBarMaker(Tickframe.parse(frame))
        made = maker.take([tuple(tick) for tick in answer["ticks"]])
        page = await api.ohlcv("DOGE/BTC", frame, since=midnight, limit=len(made))
        assert (page["timeframe"], page["complete"]) == (frame, True)
        assert page["bars"] == list(map(list, made))
        newest = await api.ohlcv("DOGE/BTC", frame, before=made[-1][0], limit=2)
        assert newest["bars"] == page["bars"][-3:-1]
    query = doge | {"timeframe": "50t", "since": midnight, "limit": 2}
    answer = await api.get("/api/v1/ohlcv", **query)
    headers = {"Accept": "text/csv"}
    async with api.session.get("/api/v1/ohlcv", params=query, headers=headers) as response:
        rows = (await response.text()).splitlines()[1:]
        assert response.headers["Marketd-Next-Page-Token"] == answer["next_page_token"]
    assert [float(row.split(",")[4]) for row in rows] == [bar[4] for bar in answer["bars"]]


async def test_bars_of_trades_take_nothing_that_is_for_bars_of_time(api: Api) -> None:
    for key, value in (("fill", "prev"), ("adjusted", "yes")):
        problem = await api.refused(400, "/api/v1/ohlcv", BTC | {"timeframe": "5t", key: value})
        assert problem["detail"] == f"{key} is for bars of time, not of trades."
    odd = {"market": "odd", "provider": "files", "symbol": "ODD", "timeframe": "5t"}
    assert (await api.refused(501, "/api/v1/ohlcv", odd))["detail"] == "files has no trades."
    assert (await api.refused(400, "/api/v1/gaps", BTC | {"timeframe": "5t"}))["field"] == "timeframe"


async def test_who_has_no_trades_and_what_is_wrong_is_said(api: Api) -> None:
    odd = {"market": "odd", "provider": "files", "symbol": "ODD"}
    problem = await api.refused(501, "/api/v1/ticks", odd)
    assert problem["detail"] == "files has no trades."
    assert (await api.refused(404, "/api/v1/ticks", BTC | {"symbol": "X"}))["code"] == "unknown_symbol"
    wrong = await api.refused(400, "/api/v1/ticks", BTC | {"page_token": "x"})
    assert wrong["field"] == "page_token"
    assert (await api.refused(400, "/api/v1/ticks", BTC | {"timeframe": "1m"}))["field"] == "timeframe"
