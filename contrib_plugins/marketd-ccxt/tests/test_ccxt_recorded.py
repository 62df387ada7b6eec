"""What real exchanges answered, through the real client: every symbol, bar and trade of it."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing, asynccontextmanager
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from binance_standin import Binance
from kraken_standin import Kraken
from marketd_ccxt.plugin import CcxtPlugin
from marketd_ccxt.settings import CcxtCredentials, CcxtSettings
from standin import Exchange

from marketd.clock import ManualClock
from marketd.domain.bar import Bar, Tick
from marketd.domain.timeframe import Timeframe
from marketd.plugins import PluginContext

pytestmark = pytest.mark.recorded

M = 60_000
MINUTE = Timeframe.parse("1m")


@cache
def read(path: Path) -> Any:
    raw = path.read_bytes()
    return json.loads(gzip.decompress(raw) if path.suffix == ".gz" else raw)


class RecordedBinance(Binance):
    """Lists what Binance listed on a day, and streams what it streamed."""

    folder: Path

    async def rest(self, path: str, request: web.Request) -> web.StreamResponse:
        if path == "api/v3/aggTrades":
            since, limit = int(request.query["startTime"]), int(request.query["limit"])
            trades = read(self.folder / "binance/rest_aggTrades_XRPETH_2019-10.json.gz")
            return web.json_response([one for one in trades if one["T"] >= since][:limit])
        assert path == "api/v3/exchangeInfo"
        return web.json_response(read(self.folder / "binance/rest_exchangeInfo_2021-10-11.json.gz"))

    async def said(self, socket: web.WebSocketResponse, message: dict[str, Any]) -> None:
        await socket.send_json({"result": None, "id": message["id"]})
        for told in self.told(message["params"][0]):
            await socket.send_json(told)

    def told(self, stream: str) -> list[dict[str, Any]]:
        """The messages of one stream, in the order of the capture."""
        capture = gzip.decompress((self.folder / "binance/ws_combined_2021-10-11.raw.gz").read_bytes())
        lines = [line.partition(": ")[2] for line in capture.decode().splitlines()]
        messages = [json.loads(line) for line in lines if line.startswith("{")]
        return [one["data"] for one in messages if one["stream"] == stream]


class RecordedKraken(Kraken):
    """Answers as Kraken did one evening, whatever it is asked."""

    folder: Path

    async def rest(self, path: str, request: web.Request) -> web.StreamResponse:
        if path == "0/public/Assets":
            return web.json_response({"error": [], "result": {}})
        name = {
            "0/public/AssetPairs": "kraken/rest_AssetPairs_XBTUSDT.json",
            "0/public/OHLC": "kraken/rest_ohlc_XBTUSDT_2025-11-10.json.gz",
            "0/public/Trades": "kraken/rest_trades_XBTUSDT_2025-11-10.json.gz",
        }[path]
        return web.json_response(read(self.folder / name))


@asynccontextmanager
async def opened(exchange: Exchange, folder: Path, name: str, now_ms: int) -> AsyncIterator[CcxtPlugin]:
    exchange.folder = folder  # type: ignore[attr-defined]
    async with exchange.serving():
        settings = CcxtSettings().load({"exchange": name, "base_url": exchange.url})
        context = PluginContext("x", ManualClock(now_ms), settings, CcxtCredentials().load({}))
        plugin = CcxtPlugin(context)
        try:
            await plugin.open()
            yield plugin
        finally:
            await plugin.close()


def recorded_bars(path: Path) -> Sequence[Bar]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        rows = list(csv.reader(file))[1:]
    return [(int(row[0]), *map(float, row[1:6])) for row in rows]  # type: ignore[misc]


def recorded_ticks(path: Path) -> list[Tick]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        rows = list(csv.reader(file))[1:]
    return [(int(row[0]), float(row[1]), float(row[2]), row[3], row[4]) for row in rows]


async def test_every_pair_of_binance_is_a_symbol(recordings: Path) -> None:
    listed = read(recordings / "binance/rest_exchangeInfo_2021-10-11.json.gz")["symbols"]
    trading = [one for one in listed if one["status"] == "TRADING"]
    clock = ManualClock(1_633_998_511_132)
    async with opened(RecordedBinance(clock), recordings, "binance", clock.now_ms()) as plugin:
        infos = await plugin.get_symbols("crypto")
    assert len({info.symbol for info in infos}) == len(infos) == len(trading) > 1_000
    assert {info.name for info in infos} == {one["symbol"] for one in trading}


async def test_the_klines_that_binance_streamed_come_as_they_were(recordings: Path) -> None:
    exchange = RecordedBinance(ManualClock(0))
    exchange.folder = recordings
    sent = [one["k"] for one in exchange.told("nknusdt@kline_1m")]
    assert sent
    # So that what the capture says lies in the plugin's present.
    now_ms = sent[0]["t"] + 30_000
    last = (sent[-1]["t"], *(float(sent[-1][key]) for key in "ohlcv"))
    async with opened(exchange, recordings, "binance", now_ms) as plugin:
        bars: list[Bar] = []
        async with aclosing(plugin.stream_bars("NKN/USDT", MINUTE)) as stream:
            while not bars or bars[-1] != last:
                bars.append((await anext(stream)).bar)
    times = {one["t"] for one in sent}
    assert {bar[0] for bar in bars} <= times
    assert all(MINUTE.floor(bar[0]) == bar[0] for bar in bars)


async def test_the_bars_of_kraken_are_those_of_the_recording(recordings: Path) -> None:
    expected = recorded_bars(recordings.parent / "bars/kraken_XBTUSDT_1m_2025-11-10.csv.gz")
    # The capture holds a bar more than a page: it is read on from its second.
    now_ms = expected[-1][0] + 30_000
    async with opened(RecordedKraken(ManualClock(now_ms)), recordings, "kraken", now_ms) as plugin:
        since = expected[2][0]
        found = await plugin.fetch_ohlcv("BTC/USDT", MINUTE, since, now_ms, 1_000, {})
    assert list(found) == list(expected[2:])


async def test_the_trades_of_kraken_are_those_of_the_recording(recordings: Path) -> None:
    expected = recorded_ticks(recordings.parent / "ticks/kraken_XBTUSDT_2025-11-10.csv.gz")
    now_ms = expected[-1][0] + 1
    async with opened(RecordedKraken(ManualClock(now_ms)), recordings, "kraken", now_ms) as plugin:
        found = await plugin.fetch_ticks("BTC/USDT", expected[0][0], now_ms, 1_000)
    assert list(found) == expected


async def test_the_trades_of_binance_are_those_of_the_recording_page_by_page(recordings: Path) -> None:
    expected = recorded_ticks(recordings.parent / "ticks/binance_XRPETH_2019-10.csv.gz")
    now_ms = expected[-1][0] + 1
    found: dict[Tick, None] = {}
    async with opened(RecordedBinance(ManualClock(0)), recordings, "binance", now_ms) as plugin:
        since = 0
        while True:
            page = await plugin.fetch_ticks("XRP/ETH", since, now_ms, plugin.tick_page_limit)
            found |= dict.fromkeys(page)
            if len(page) < plugin.tick_page_limit:
                break
            since = page[-1][0]
    assert list(found) == expected
