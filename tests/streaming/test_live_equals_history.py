"""Whatever happens to a series, what each client was told, folded, is what history says afterwards."""

from __future__ import annotations

import asyncio
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted import MINUTE, START, M, StreamingPlugin, bar, scripted
from world import Client, World

from marketd.clock import ManualClock
from marketd.domain.bar import Bar
from marketd.domain.errors import ProviderFailed
from marketd.domain.timeframe import Timeframe
from marketd.domain.timerange import TimeRange
from marketd.storage.sqlite import SQLiteStorage
from marketd.streaming import retry, service
from marketd.streaming.ring import Cursor

FIVE = Timeframe.parse("5m")
TIMEFRAMES = (MINUTE, FIVE)
FIRST = 12
PATIENCE_S = 10

BACK = st.integers(1, 9)
CLOSE = st.integers(50, 59).map(float)
STEPS = st.one_of(
    st.tuples(st.sampled_from(["closes", "is_missed", "is_quiet", "breaks", "breathes"])),
    st.tuples(st.sampled_from(["forms", "comes_early"]), CLOSE),
    st.tuples(st.sampled_from(["is_corrected", "is_repaired"]), BACK, CLOSE),
    st.tuples(st.just("joins"), st.sampled_from(TIMEFRAMES), st.none() | BACK),
    st.tuples(st.sampled_from(["leaves", "comes_back"]), st.integers(0, 9)),
)


class Reader:
    """A client that keeps the closed bars it was told, over as many connections as it takes."""

    def __init__(self, world: World, timeframe: Timeframe, since_ms: int | None) -> None:
        self._world = world
        self.timeframe = timeframe
        self._client: Client | None = None
        self._joining: asyncio.Task[None] | None = None
        self.bars: dict[int, Bar] = {}
        self._next_ms = 0
        self._cursor = ""
        self.since_ms = self._join(since_ms)

    def leave(self) -> None:
        """The connection ends; what was on its way arrives."""
        if self._client is not None and self._joining is not None:
            self._joining.cancel()
            self.read()
            self._world.service.unsubscribe(self._world.feed, self._subscription)
            self._client = None

    def come_back(self) -> None:
        """It goes on from where it was."""
        if self._client is None and not self._cursor:
            self._join(self.since_ms)
        elif self._client is None:
            self._client = self._world.client()
            cursor = Cursor.parse(self._cursor, field="resume")
            self._subscription, joined = self._world.subscribe(self._client, self.timeframe, cursor)
            self._joining = asyncio.create_task(self._resume(cursor, joined))

    def read(self) -> dict[int, Bar]:
        """Takes what has come; gives the closed bars as it knows them."""
        for message in self._client.told() if self._client is not None else ():
            self._cursor = message.get("cursor", self._cursor)
            match message["type"]:
                case "snapshot":
                    assert message["complete"]
                    for row in message["bars"]:
                        self._close(tuple(row))
                case "bar" if message["rev"]:
                    self._keep(tuple(message["bar"]))
                case "bar" if message["closed"]:
                    self._close(tuple(message["bar"]))
                case "gap":
                    raise AssertionError(message)
        return self.bars

    def _close(self, told: Bar) -> None:
        assert told[0] >= self._next_ms, "a closed bar was told twice, or out of order"
        self._next_ms = self.timeframe.end(told[0])
        self._keep(told)

    def _keep(self, told: Bar) -> None:
        # What changes, or is live, is told whatever was asked for.
        if told[0] >= self.since_ms:
            self.bars[told[0]] = told

    def _join(self, since_ms: int | None) -> int:
        self._client = self._world.client()
        self._subscription, joined = self._world.subscribe(self._client, self.timeframe)
        # Who asks for history has nothing until that comes.
        self._cursor = joined.cursor.token() if since_ms is None else ""
        self._joining = asyncio.create_task(self._catch_up(since_ms, joined))
        return joined.live_ms if since_ms is None else since_ms

    async def _catch_up(self, since_ms: int | None, joined: Any) -> None:
        if since_ms is not None:
            await self._world.service.catch_up(self._world.feed, self._subscription, since_ms, joined)
        self._subscription.go_live()

    async def _resume(self, cursor: Cursor, joined: Any) -> None:
        feed = self._world.feed
        if not await self._world.service.resume(feed, self._subscription, cursor, joined):
            # It may lack a correction, and asks for what it has anew.
            for one in await self._world.rest(self.timeframe, self.since_ms):
                if one[0] < cursor.next_ms:
                    self.bars[one[0]] = one
        self._subscription.go_live()


class Market:
    """A vendor to whom things happen, step by step."""

    def __init__(self, storage: SQLiteStorage) -> None:
        self.minute = FIRST
        self.clock = ManualClock(START + FIRST * M + 1)
        history = [bar(minute) for minute in range(FIRST)]
        self.plugin = scripted(
            history, now_ms=self.clock.now_ms(), cls=StreamingPlugin, clock=self.clock
        )
        assert isinstance(self.plugin, StreamingPlugin)
        self.world = World(storage, self.plugin, self.clock)
        self.readers = [Reader(self.world, timeframe, START) for timeframe in TIMEFRAMES]

    def closes(self) -> None:
        """An interval ends, and the stream says so."""
        self.world.says(self._passes(), closed=True)

    def is_missed(self) -> None:
        """The stream leaves one out."""
        self._passes()

    def is_quiet(self) -> None:
        """An interval ends without a trade."""
        self.minute += 1
        self.clock.set(START + self.minute * M + 1)

    def forms(self, close: float) -> None:
        self.world.says(bar(self.minute, close), closed=False)

    def comes_early(self, close: float) -> None:
        """Two intervals end, and the stream says the later first."""
        first, second = self._passes(), self._passes(close)
        self.world.says(second, closed=True)
        self.world.says(first, closed=True)

    def is_corrected(self, back: int, close: float) -> None:
        """The stream says another bar, or a late one, for an interval of the past."""
        corrected = bar(self.minute - back, close)
        self._keep(corrected)
        self.world.says(corrected, closed=True)

    async def is_repaired(self, back: int, close: float) -> None:
        """Somebody else stores one."""
        repaired = bar(self.minute - back, close)
        self._keep(repaired)
        await self.world.storage.store(self.world.feed.series, [repaired], [], at_ms=self.clock.now_ms())

    def breaks(self) -> None:
        """The connection to the vendor ends."""
        self.plugin.updates.put_nowait(ProviderFailed("the wire broke."))

    async def breathes(self) -> None:
        """What was stored has been stored, and told."""
        await self.world.storage.read(self.world.feed.series, TimeRange(START, START + M), limit=1)
        for reader in self.readers:
            reader.read()

    def joins(self, timeframe: Timeframe, back: int | None) -> None:
        since_ms = None if back is None else START + (self.minute - back) * M
        self.readers.append(Reader(self.world, timeframe, since_ms))

    def leaves(self, number: int) -> None:
        self.readers[number % len(self.readers)].leave()

    def comes_back(self, number: int) -> None:
        self.readers[number % len(self.readers)].come_back()

    async def ends(self) -> None:
        """Everybody is there again, every interval is over, and all has been told."""
        for reader in self.readers:
            reader.come_back()
        self.minute = 5 * (self.minute // 5 + 2)
        self.clock.set(START + self.minute * M + 5_000)
        front = self.world.service._upstreams[self.world.feed.series].worker.front
        async with asyncio.timeout(PATIENCE_S):
            while front.next_ms < START + self.minute * M:  # noqa: ASYNC110 - a front says nothing
                await asyncio.sleep(0.002)

    async def agrees(self, reader: Reader) -> None:
        """Returns once what `reader` was told is what history says, and asserts that."""
        try:
            async with asyncio.timeout(PATIENCE_S):
                while reader.read() != await self._history(reader):  # noqa: ASYNC110 - as above
                    await asyncio.sleep(0.002)
        except TimeoutError:
            assert reader.read() == await self._history(reader)

    async def _history(self, reader: Reader) -> dict[int, Bar]:
        said = await self.world.rest(reader.timeframe, reader.since_ms)
        return {one[0]: one for one in said if one[0] < START + self.minute * M}

    def _passes(self, close: float | None = None) -> Bar:
        ended = bar(self.minute, close)
        self._keep(ended)
        self.is_quiet()
        return ended

    def _keep(self, new: Bar) -> None:
        others = [old for old in self.plugin.bars if old[0] != new[0]]
        self.plugin.bars = sorted([*others, new])


async def live_equals_history(steps: list[tuple[Any, ...]], folder: Path) -> None:
    storage = SQLiteStorage(folder / "bars.db")
    await storage.open()
    market = Market(storage)
    try:
        for name, *details in steps:
            done = getattr(market, name)(*details)
            await (done if done is not None else asyncio.sleep(0))
        await market.ends()
        for reader in market.readers:
            await market.agrees(reader)
    finally:
        await market.world.supervisor.stop()
        await storage.close()


@settings(max_examples=40, deadline=None)
@given(steps=st.lists(STEPS, max_size=40))
def test_what_clients_were_told_is_what_history_says_in_order_and_once(
    steps: list[tuple[Any, ...]],
) -> None:
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        # What is tried again is so at once.
        patch.setattr(retry, "_LONGEST_PAUSE_S", 0.01)
        patch.setattr(retry, "_FIRST_PAUSE_S", 0.01)
        patch.setattr(service, "_RETRY_S", 0.01)
        asyncio.run(live_equals_history(steps, Path(folder)))
