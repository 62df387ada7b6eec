"""The client against a real daemon, whose clock the tests move and which may go away and come back."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from house import FLAWED, SIM, START, SYMBOLS, House, M, recorded

from marketd.client import (
    BarUpdate,
    Gap,
    MarketdClient,
    MarketdClientError,
    ProviderInfo,
    Revised,
    Snapshot,
    Status,
    StreamEvent,
    TickSnapshot,
    TickStreamEvent,
    TickUpdate,
)
from marketd.client.stream import FollowingBars
from marketd.config import ProviderConfig, StreamConfig
from marketd.config.settings import ByteCount
from marketd.domain.bar import Bar, Tick

BTC = ("crypto", "sim", "BTC/USD")


@pytest.fixture
async def house(tmp_path: Path) -> AsyncIterator[House]:
    house = House(tmp_path)
    yield house
    await house.close()


@pytest.fixture
async def client(house: House) -> AsyncIterator[MarketdClient]:
    """A client of a daemon with the simulated exchange."""
    await house.open()
    async with MarketdClient(house.url) as client:
        yield client


def closed_bars(events: Sequence[StreamEvent], symbol: str = "BTC/USD") -> list[Bar]:
    bars: list[Bar] = []
    for event in events:
        match event:
            case Snapshot(name, found, _) if name == symbol:
                bars += found
            case BarUpdate(name, bar, True, 0) if name == symbol:
                bars.append(bar)
    return bars


async def test_markets_and_providers_are_told_by_name(client: MarketdClient) -> None:
    assert await client.markets() == {"crypto": ["sim"], "us_equity": ["sim"]}
    await client.ohlcv(*BTC, "1m")
    assert await client.providers("crypto") == await client.providers()
    (sim,) = await client.providers()
    assert sim == ProviderInfo(
        provider="sim",
        plugin="sim",
        description=sim.description,
        markets=["crypto", "us_equity"],
        timeframes=["1s", "1m", "1d"],
        features=["bar_stream", "tick_stream", "tick_history", "market_hours"],
        state="up",
        message="",
    )


async def test_every_symbol_comes_once_whatever_the_size_of_a_page(house: House, tmp_path: Path) -> None:
    await house.open(recorded(tmp_path))
    async with MarketdClient(house.url) as client:
        found = [info.symbol async for info in client.symbols("odd", "files")]
        some = [info.symbol async for info in client.symbols("odd", "files", query="s077")]
    assert found == SYMBOLS
    assert some == SYMBOLS[770:780]


async def test_a_symbol_comes_with_what_the_provider_says_of_it(client: MarketdClient) -> None:
    (btc,) = [info async for info in client.symbols("crypto", "sim", query="btc/usd")]
    assert (btc.symbol, btc.market, btc.base, btc.quote) == ("BTC/USD", "crypto", "BTC", "USD")
    assert (btc.first_ms, btc.last_ms) == (1_262_304_000_000, None)


async def test_bars_are_tuples_and_every_kind_of_value_keeps_its_meaning(
    house: House, tmp_path: Path
) -> None:
    await house.open(recorded(tmp_path))
    async with MarketdClient(house.url) as client:
        page = await client.ohlcv("odd", "files", "S0000", "1m", since=START, fill="null")
    assert page.complete
    plain, empty, odd, *rest = page.bars
    assert plain == (START, 1.5, 2.0, 0.5, 1.25, 10.0)
    assert empty == (START + M, None, None, None, None, None)
    assert odd[0] == START + 2 * M
    assert [math.isnan(value) for value in (odd[1], odd[4]) if value is not None] == [True, True]
    assert odd[2:4] == (math.inf, -math.inf)
    assert page.filled[:2] == [START + 3 * M, START + 4 * M]
    assert rest[0] == (START + 3 * M, None, None, None, None, None)
    assert all(type(bar) is tuple for bar in page.bars)


@pytest.mark.parametrize(
    "since",
    [START, str(START), "2024-03-05T14:00:00Z", datetime(2024, 3, 5, 14, tzinfo=UTC)],
    ids=repr,
)
async def test_a_time_may_be_written_in_every_way(client: MarketdClient, since: Any) -> None:
    page = await client.ohlcv(*BTC, "1m", since=since, limit=2)
    assert [bar[0] for bar in page.bars] == [START, START + M]


@pytest.mark.parametrize("limit", [7, 60, 10_000])
async def test_pages_in_either_direction_make_up_the_whole(client: MarketdClient, limit: int) -> None:
    since, before = START - 60 * M, START
    whole = await client.ohlcv(*BTC, "1m", since=since, before=before, limit=1_000)
    forwards: list[Bar] = []
    async for page in client.iter_bars(*BTC, "1m", since=since, before=before, limit=limit):
        assert page.complete
        forwards += page.bars
    backwards: list[Bar] = []
    async with aclosing(client.iter_bars(*BTC, "1m", before=before, limit=limit)) as pages:
        async for page in pages:
            backwards = [*page.bars, *backwards]
            if len(backwards) >= 60:
                break
    assert len(whole.bars) == 60
    assert forwards == whole.bars == backwards[-60:]


async def test_pages_of_trades_in_either_direction_make_up_the_whole(client: MarketdClient) -> None:
    whole = await client.ticks(*BTC, since=START, before=START + M, limit=10_000)
    assert whole.complete
    assert whole.gaps == []
    assert all(START <= tick[0] < START + M for tick in whole.ticks)
    assert len(whole.ticks) > 20
    forwards = [
        tick
        async for page in client.iter_ticks(*BTC, since=START, before=START + M, limit=9)
        for tick in page.ticks
    ]
    assert forwards == whole.ticks
    backwards: list[Tick] = []
    async with aclosing(client.iter_ticks(*BTC, before=START + M, limit=9)) as pages:
        async for page in pages:
            backwards = [*page.ticks, *backwards]
            if backwards[0][0] < START:
                break
    assert [tick for tick in backwards if tick[0] >= START] == whole.ticks


async def test_what_the_daemon_has_not_learnt_is_a_gap(client: MarketdClient) -> None:
    before = START + 10 * M
    gap = Gap("BTC/USD", START, before, "pending")
    assert await client.gaps(*BTC, "1m", since=START, before=before) == [gap]
    await client.ohlcv(*BTC, "1m", since=START, before=before)
    assert await client.gaps(*BTC, "1m", since=START, before=before) == []


async def test_what_cannot_be_had_is_a_gap_of_a_page_and_an_event_of_a_stream(house: House) -> None:
    await house.open(FLAWED)
    gap = Gap("X", START + 3 * M, START + 4 * M, "unrecoverable")
    async with (
        MarketdClient(house.url) as client,
        asyncio.timeout(20),
        aclosing(client.stream("odd", "flawed", ["X"], "1m", since=START)) as stream,
    ):
        page = await client.ohlcv("odd", "flawed", "X", "1m", since=START, limit=5)
        snapshot, told = await anext(stream), await anext(stream)
    minutes = [(bar[0] - START) // M for bar in page.bars]
    assert (minutes, page.complete, page.gaps) == ([0, 1, 2, 4, 5], False, [gap])
    assert isinstance(snapshot, Snapshot)
    assert not snapshot.complete
    assert [(bar[0] - START) // M for bar in snapshot.bars] == [0, 1, 2, *range(4, 30)]
    assert told == gap


async def test_parameters_go_to_the_provider(client: MarketdClient) -> None:
    with pytest.raises(MarketdClientError) as raised:
        await client.ohlcv(*BTC, "1m", params={"adjustment": "split"})
    assert (raised.value.code, raised.value.field) == ("invalid_input", "adjustment")


async def test_a_backfill_is_begun_watched_paused_resumed_and_ended(client: MarketdClient) -> None:
    years = {"since": "2014-01-01T00:00:00Z", "before": "2024-01-01T00:00:00Z"}
    one = await client.begin_backfill(*BTC, "1m", **years)
    assert (one.market, one.provider, one.symbol, one.timeframe) == (*BTC, "1m")
    assert (one.since_ms, one.before_ms, one.repair) == (1_388_534_400_000, 1_704_067_200_000, False)
    assert (one.every_s, one.next_ms) == (None, None)
    assert [each.id for each in await client.backfills()] == [one.id]
    async with asyncio.timeout(20):
        while not (told := await client.backfill(one.id)).bars:  # noqa: ASYNC110 - polled
            await asyncio.sleep(0.01)
    assert told.state == "running"
    assert 0 < told.progress < 1
    assert told.eta_s is not None
    assert told.eta_s > 0
    assert told.bars_per_s > 0
    assert (await client.pause_backfill(one.id)).state == "paused"
    assert (await client.resume_backfill(one.id)).state == "pending"
    with pytest.raises(MarketdClientError) as conflict:
        await client.resume_backfill(one.id)
    assert conflict.value.code == "conflict"
    ended = await client.cancel_backfill(one.id)
    assert (ended.state, ended.has_ended) == ("cancelled", True)
    assert (await client.cancel_backfill(one.id)).id == one.id
    assert await client.backfills() == []
    with pytest.raises(MarketdClientError) as gone:
        await client.backfill(one.id)
    assert gone.value.code == "not_found"


async def test_a_problem_is_an_error_with_its_code_and_field(client: MarketdClient) -> None:
    with pytest.raises(MarketdClientError) as unknown:
        await client.ohlcv("crypto", "sim", "NO/PE", "1m")
    assert (unknown.value.status, unknown.value.code) == (404, "unknown_symbol")
    assert "NO/PE" in str(unknown.value)
    with pytest.raises(MarketdClientError) as invalid:
        await client.ohlcv(*BTC, "1x")
    assert (invalid.value.status, invalid.value.field) == (400, "timeframe")


async def test_readiness_is_told_of_a_daemon_with_a_broken_provider_too(house: House) -> None:
    await house.open(SIM, ProviderConfig("other", "not-installed"))
    async with MarketdClient(house.url) as client:
        ready = await client.ready()
    assert ready["status"] == "ready"
    assert {"sim", "replay"} <= {one["plugin"] for one in ready["plugins"]}
    assert [one["state"] for one in ready["providers"] if one["provider"] == "other"] == ["failed"]


async def test_without_a_daemon_the_error_says_how_to_start_one(
    client: MarketdClient, house: House
) -> None:
    await house.close()
    with pytest.raises(MarketdClientError, match=r"No daemon answers at .*marketd serve") as raised:
        await client.markets()
    assert raised.value.code == "unreachable"
    with pytest.raises(MarketdClientError) as raised:
        await anext(client.stream(*BTC[:2], ["BTC/USD"], "1m"))
    assert raised.value.code == "unreachable"


@pytest.mark.parametrize("url", ["nonsense", "ftp://127.0.0.1", "http://"])
async def test_what_is_no_address_is_said_to_be_none(url: str) -> None:
    async with MarketdClient(url) as client:
        with pytest.raises(MarketdClientError) as raised:
            await client.markets()
    assert raised.value.code == "invalid_url"


async def test_another_server_is_not_taken_for_the_daemon() -> None:
    app = web.Application()
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        async with MarketdClient(url) as client:
            with pytest.raises(MarketdClientError) as asked:
                await client.ohlcv(*BTC, "1m")
            with pytest.raises(MarketdClientError) as streamed:
                await anext(client.stream(*BTC[:2], ["BTC/USD"], "1m"))
    finally:
        await runner.cleanup()
    assert (asked.value.code, asked.value.status) == ("not_marketd", 404)
    assert (streamed.value.code, streamed.value.status) == ("not_marketd", 404)


async def test_a_stream_is_history_and_then_live_as_rest_has_it(
    client: MarketdClient, house: House
) -> None:
    events: list[StreamEvent] = []
    symbols = ["BTC/USD", "ETH/USD"]
    async with (
        house.passing_time(),
        asyncio.timeout(20),
        aclosing(client.stream("crypto", "sim", symbols, "1m", since=START)) as stream,
    ):
        async for event in stream:
            events.append(event)
            if all(len(closed_bars(events, symbol)) >= 40 for symbol in symbols):
                break
    for symbol in symbols:
        seen = closed_bars(events, symbol)
        assert isinstance(next(one for one in events if one.symbol == symbol), Snapshot)
        page = await client.ohlcv(
            "crypto", "sim", symbol, "1m", since=START, before=seen[-1][0] + 1, limit=10_000
        )
        assert seen == page.bars
    assert any(isinstance(one, BarUpdate) and not one.closed for one in events)


async def test_without_since_a_stream_begins_with_the_bar_that_forms(client: MarketdClient) -> None:
    async with (
        asyncio.timeout(20),
        aclosing(client.stream("crypto", "sim", ["BTC/USD"], "1m")) as stream,
    ):
        first = await anext(stream)
    assert isinstance(first, BarUpdate)
    assert (first.bar[0], first.closed, first.rev) == (START + 30 * M, False, 0)


async def test_over_a_restart_of_the_daemon_no_trade_is_missed_or_told_twice(
    client: MarketdClient, house: House
) -> None:
    since_ms = house.clock.now_ms() - 20_000
    seen: list[Tick] = []
    states: list[str] = []

    async def hear(stream: AsyncIterator[TickStreamEvent]) -> None:
        event = await anext(stream)
        if isinstance(event, Status):
            states.append(event.state)
        elif isinstance(event, TickSnapshot | TickUpdate):
            seen.extend(event.ticks)

    async with (
        asyncio.timeout(30),
        aclosing(client.stream_ticks(*BTC[:2], ["BTC/USD"], since=since_ms)) as stream,
    ):
        async with house.passing_time(500):
            while not seen or seen[-1][0] < since_ms + 30_000:
                await hear(stream)
        await house.close()
        house.clock.advance(20_000)
        await house.open()
        until_ms = house.clock.now_ms() + 10_000
        async with house.passing_time(500):
            while seen[-1][0] < until_ms:
                await hear(stream)
            page = await client.ticks(*BTC, since=since_ms, before=until_ms, limit=10_000)
            # What was missed is told late.
            while sorted(tick for tick in seen if tick[0] < until_ms) != page.ticks:
                await hear(stream)
    assert states == ["disconnected", "connected"]


def test_a_stream_of_bars_of_trades_goes_on_behind_the_last_one() -> None:
    bars = [(START, 1.0, 1.0, 1.0, 1.0, 2.0), (START + 7, 2.0, 2.0, 2.0, 2.0, 2.0)]
    following = FollowingBars(["X"], {}, timeframe="2t", since=None)
    snapshot = {"type": "snapshot", "symbol": "X", "bars": bars, "complete": True, "cursor": "c1"}
    assert list(following.told(snapshot)) == [Snapshot("X", bars, True)]
    assert json.loads(next(following.commands()))["resume"] == "c1"
    late = {"type": "revised", "symbol": "X", "start": START, "end": START + 9, "bars": bars[:1]}
    late["cursor"] = "c2"
    assert list(following.told(late)) == [Revised("X", START, START + 9, bars[:1])]
    assert json.loads(next(following.commands()))["resume"] == "c2"


@pytest.mark.parametrize("since", [START, None])
async def test_over_a_restart_of_the_daemon_no_closed_bar_is_missed_or_told_twice(
    client: MarketdClient, house: House, since: int | None
) -> None:
    events: list[StreamEvent] = []
    async with (
        asyncio.timeout(30),
        aclosing(client.stream("crypto", "sim", ["BTC/USD", "SOL/USD"], "1m", since=since)) as stream,
    ):
        for _ in range(2):
            before = len(closed_bars(events))
            async with house.passing_time():
                async for event in stream:
                    events.append(event)
                    if len(closed_bars(events)) >= before + 10:
                        break
            await house.close()
            house.clock.advance(17 * M)
            await house.open()
        async with house.passing_time():
            async for event in stream:
                events.append(event)
                if len(closed_bars(events)) >= 70 and len(closed_bars(events, "SOL/USD")) >= 60:
                    break
    for symbol in ("BTC/USD", "SOL/USD"):
        seen = closed_bars(events, symbol)
        page = await client.ohlcv(
            "crypto", "sim", symbol, "1m", since=seen[0][0], before=seen[-1][0] + 1, limit=10_000
        )
        assert seen == page.bars
    states = [event.state for event in events if isinstance(event, Status)]
    assert states == ["disconnected", "connected"] * 2


async def test_the_bar_that_formed_when_the_connection_was_lost_is_not_missed(
    client: MarketdClient, house: House
) -> None:
    async with (
        asyncio.timeout(20),
        aclosing(client.stream("crypto", "sim", ["BTC/USD"], "1m")) as stream,
    ):
        forming = await anext(stream)
        await house.close()
        house.clock.advance(10 * M)
        await house.open()
        events = [await anext(stream) for _ in range(3)]
    assert isinstance(forming, BarUpdate)
    assert not forming.closed
    assert [bar[0] for bar in closed_bars(events)] == [
        forming.bar[0] + minute * M for minute in range(10)
    ]


@pytest.mark.parametrize("timeframe", ["1m", "5m"])
async def test_wherever_a_connection_is_cut_no_closed_bar_is_missed_or_told_twice(
    client: MarketdClient, house: House, timeframe: str
) -> None:
    """Each connection ends in the middle of a frame, and has room for more than the one before."""
    room = 10_001

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal room
        room *= 3
        left = room
        host, port = house.url.removeprefix("http://").split(":")
        from_daemon, to_daemon = await asyncio.open_connection(host, int(port))

        async def ask() -> None:
            while chunk := await reader.read(65_536):
                to_daemon.write(chunk)

        asking = asyncio.create_task(ask())
        while left > 0 and (chunk := await from_daemon.read(min(left, 65_536))):
            writer.write(chunk)
            left -= len(chunk)
        asking.cancel()
        writer.transport.abort()
        to_daemon.transport.abort()

    server = await asyncio.start_server(carry, "127.0.0.1", 0)
    events: list[StreamEvent] = []
    since = START - 7 * 24 * 60 * M
    async with (
        server,
        asyncio.timeout(30),
        house.passing_time(),
        MarketdClient(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}") as cut,
        aclosing(cut.stream("crypto", "sim", ["BTC/USD"], timeframe, since=since)) as stream,
    ):
        async for event in stream:
            events.append(event)
            states = [one.state for one in events if isinstance(one, Status)]
            if states.count("connected") >= 2 and isinstance(event, BarUpdate):
                break
    seen = closed_bars(events)
    whole: list[Bar] = []
    async for page in client.iter_bars(*BTC, timeframe, since=since, before=seen[-1][0] + 1):
        whole += page.bars
    assert seen == whole


async def test_a_client_that_was_too_slow_catches_up(house: House) -> None:
    """Two days of seconds at once are more than any buffer between the daemon and a client holds."""
    await house.open(SIM, stream=StreamConfig(outbox=ByteCount(50_000)))
    events: list[StreamEvent] = []
    async with (
        MarketdClient(house.url) as client,
        asyncio.timeout(60),
        aclosing(
            client.stream("crypto", "sim", ["BTC/USD"], "1s", since=house.clock.now_ms() - 5_000)
        ) as stream,
    ):
        events.append(await anext(stream))
        house.clock.advance(2 * 24 * 60 * M)
        last_ms = house.clock.now_ms() - 10_000
        while not any(isinstance(event, Status) for event in events):
            events.append(await anext(stream))
        async for event in stream:
            events.append(event)
            if any(bar[0] >= last_ms for bar in closed_bars([event])):
                break
        seen = closed_bars(events)
        whole: list[Bar] = []
        async for page in client.iter_bars(*BTC, "1s", since=seen[0][0], before=seen[-1][0] + 1):
            whole += page.bars
    assert seen == whole


async def test_a_subscription_that_is_refused_is_an_error(client: MarketdClient) -> None:
    with pytest.raises(MarketdClientError) as raised:
        await anext(client.stream("crypto", "sim", ["NO/PE"], "1m"))
    assert (raised.value.status, raised.value.code) == (None, "unknown_symbol")
    with pytest.raises(MarketdClientError) as raised:
        await anext(client.stream("crypto", "sim", ["BTC/USD"], "1m", since="yesterday"))
    assert raised.value.code == "invalid_input"


async def test_what_passes_is_waited_out_and_what_does_not_is_raised(
    client: MarketdClient, house: House
) -> None:
    async with (
        house.passing_time(),
        asyncio.timeout(30),
        aclosing(client.stream("crypto", "sim", ["BTC/USD"], "1m")) as stream,
    ):
        await anext(stream)
        await house.close()
        other = ProviderConfig("other", "sim")
        await house.open(ProviderConfig("sim", "not-installed"), other)
        event = await anext(stream)
        while not isinstance(event, Status):
            event = await anext(stream)
        assert event.state == "disconnected"
        waiting = asyncio.ensure_future(anext(stream))
        await house.streamed()
        await house.close()
        await house.open()
        assert await waiting == Status("", "connected", "")
        await house.close()
        await house.open(other)
        with pytest.raises(MarketdClientError) as raised:
            async for _ in stream:
                pass
    assert raised.value.code == "unknown_provider"
