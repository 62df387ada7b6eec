"""What Alpaca itself has answered: every bar and trade of it is read, and as it was."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from alpaca_standin import NOW, Alpaca, Opened, refusing
from marketd_alpaca.rows import bar_of, stands, tick_of

from marketd.domain.bar import bar_fault, tick_fault
from marketd.domain.timeframe import Timeframe

pytestmark = pytest.mark.recorded

MINUTE, DAY = Timeframe.parse("1m"), Timeframe.parse("1d")


def bodies(folder: Path) -> Iterator[Any]:
    for path in sorted((folder / "alpaca").glob("*")):
        raw = path.read_bytes()
        recorded = json.loads(gzip.decompress(raw) if path.suffix == ".gz" else raw)
        if isinstance(recorded, dict):
            yield recorded
        elif "ws_messages" not in path.name:
            yield from (one["body"] for one in recorded)


def rows(folder: Path, kind: str) -> list[tuple[str, dict[str, Any]]]:
    """Every recorded row of a kind, with its symbol; a latest bar or trade is a row, too."""
    found = []
    for body in bodies(folder):
        for symbol, told in (body.get(kind) or {}).items():
            found += [(symbol, row) for row in (told if isinstance(told, list) else [told])]
    return found


def test_every_bar_is_read_as_it_was(recordings: Path) -> None:
    recorded = rows(recordings, "bars")
    assert len(recorded) > 30
    for _, row in recorded:
        bar = bar_of(row)
        assert bar_fault(bar, MINUTE) is None
        assert bar[0] == datetime.fromisoformat(row["t"]).timestamp() * 1000
        assert bar[1:] == tuple(row[name] for name in "ohlcv")


def test_days_of_stocks_begin_at_midnight_in_new_york_and_are_no_days_of_ours(recordings: Path) -> None:
    days = [
        bar_of(row)[0]
        for symbol, row in rows(recordings, "bars")
        if "/" not in symbol and row["t"][11:] in ("04:00:00Z", "05:00:00Z")
    ]
    assert len(days) > 10
    for t_ms in days:
        assert datetime.fromtimestamp(t_ms / 1000, ZoneInfo("America/New_York")).hour == 0
        assert DAY.floor(t_ms) != t_ms


def test_every_trade_is_read_as_it_was(recordings: Path) -> None:
    recorded = rows(recordings, "trades")
    assert len(recorded) > 20
    for _, row in recorded:
        tick = tick_of(row)
        assert tick_fault(tick, tick[0]) is None
        assert (tick[1], tick[2], tick[4]) == (row["p"], row["s"], str(row["i"]))
        assert tick[3] == {"B": "buy", "S": "sell"}.get(row.get("tks"), "")
        assert 0 <= datetime.fromisoformat(row["t"]).timestamp() * 1000 - tick[0] < 1


def test_only_what_was_not_cancelled_stands(recordings: Path) -> None:
    cancelled = [row for _, row in rows(recordings, "trades") if not stands(row)]
    assert [row["u"] for row in cancelled] == ["canceled", "canceled"]


async def test_a_recorded_page_of_trades_comes_through_the_plugin(
    recordings: Path, opened: Opened, alpaca: Alpaca
) -> None:
    body = json.loads((recordings / "alpaca/rest_stocks_trades_AAPL_2021-10-13.json").read_bytes())
    (told,) = body["trades"].values() if isinstance(body["trades"], dict) else [body["trades"]]
    async with opened(markets=["us_equity"]) as plugin:
        await plugin.get_symbols("us_equity")
        alpaca.faults.append(refusing(200, {**body, "trades": {"AAPL": told}}))
        assert body["next_page_token"]
        found = await plugin.fetch_ticks("AAPL", 0, NOW, len(told))
    assert list(found) == [tick_of(row) for row in told]
