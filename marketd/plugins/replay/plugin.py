"""The provider: recordings in memory, a clock, and what may be seen of them at its present."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any, ClassVar

from marketd.barfiles.recording import Recording
from marketd.domain.bar import Bar
from marketd.domain.errors import UnknownSymbol, Unsupported
from marketd.domain.instrument import SymbolInfo
from marketd.domain.timeframe import Timeframe
from marketd.plugins import BarStreams, BarUpdate, Clock, MarketPlugin, PluginContext, ScaledClock
from marketd.plugins.replay.forming import formation, formed_at
from marketd.plugins.replay.library import RecordedSymbol, find, lay_out
from marketd.plugins.replay.reader import read
from marketd.plugins.replay.settings import RecordedFile, ReplaySettings
from marketd.plugins.replay.timeline import Timeline


class ReplayPlugin(MarketPlugin, BarStreams):
    """Recorded series, at the times of one of three clocks.

    - `clock = "recorded"`: everything is history at its own times, and nothing is live.
    - The same with `start`: the provider's clock stands at `start` when it opens and runs at `speed`.
      What lies after it is not there yet; bars form and close as it passes them, and the streams end
      with the recording.
    - `clock = "present"`: the recording is repeated in laps that reach up to now (see
      `timeline.in_laps`), so that it has a long past and is always live. Its history begins up to
      twenty years before the first recorded bar.
    """

    plugin: ClassVar[str] = "replay"
    description: ClassVar[str] = (
        "Recorded series from a folder of CSV or Parquet files, no live market: at their own times as "
        "history, replayed live from a start, or repeated in laps that reach up to now."
    )
    settings_schema = ReplaySettings
    page_limit = 10_000
    is_authoritative = True
    settle_ms: ClassVar[int] = 0

    def __init__(self, context: PluginContext) -> None:
        super().__init__(context)
        settings = context.settings
        self._folder = Path(settings["path"]).expanduser()
        self._market: str = settings["market"] or ""
        self._files: Sequence[RecordedFile] = settings["series"]
        self._repeat = settings["clock"] == "present"
        self._start_ms: int | None = settings["start"]
        self._speed: float = settings["speed"]
        self._read: dict[RecordedFile, Recording] = {}
        self._symbols: Mapping[str, RecordedSymbol] = {}
        self.markets = sorted({file.market for file in self._files}) or [self._market]
        self.timeframes = ()

    async def open(self) -> None:
        """Reads every file, and starts the clock. Raises what is wrong with one as ProviderFailed.

        A file once read stays read until all are: a folder that takes longer than one attempt may
        last is opened by a later one.
        """
        files = self._files or await asyncio.to_thread(find, self._folder, self._market)
        for file in files:
            if file not in self._read:
                path = self._folder / file.file
                self._read[file] = await asyncio.to_thread(read, path, file.timeframe)
        recordings = {file: self._read[file] for file in files}
        self._read.clear()
        self._symbols = await asyncio.to_thread(lay_out, recordings, repeat=self._repeat)
        self.timeframes = sorted({file.timeframe for file in files}, key=attrgetter("nominal_ms"))
        self.clock = self._started_clock()

    async def close(self) -> None:
        self._read.clear()
        self._symbols = {}

    def timeframes_of(self, symbol: str) -> Sequence[Timeframe]:
        recorded = self._symbols.get(symbol)
        return () if recorded is None else tuple(recorded.timelines)

    async def get_symbols(self, market: str) -> Sequence[SymbolInfo]:
        return [self._info(symbol) for symbol in self._symbols.values() if symbol.market == market]

    async def fetch_ohlcv(
        self,
        symbol: str,
        timeframe: Timeframe,
        since: int,
        before: int,
        limit: int,
        params: Mapping[str, Any],
    ) -> Sequence[Bar]:
        timeline = self._timeline(symbol, timeframe)
        now_ms = self.clock.now_ms()
        start = timeline.position(since)
        stop = min(timeline.position(min(before, now_ms + 1)), start + limit)
        bars = timeline.bars(start, stop)
        if bars:
            newest = bars.pop()
            so_far = formed_at(newest, timeframe.end(newest[0]), now_ms)
            if so_far is not None:
                bars.append(so_far)
        return bars

    async def stream_bars(self, symbol: str, timeframe: Timeframe) -> AsyncIterator[BarUpdate]:
        """The bar that holds the present and those after it, each as it forms and once as it closes.

        A consumer that falls behind gets every closed bar, and no state of a bar that is out of date.
        """
        timeline, clock = self._timeline(symbol, timeframe), self.clock
        position = timeline.position(timeframe.floor(clock.now_ms()))
        while position < timeline.stop:
            (bar,) = timeline.bars(position, position + 1)
            end_ms = timeframe.end(bar[0])
            states = formation(bar, end_ms)
            until = [*(state.t_ms for state in states[1:]), end_ms]
            for state, until_ms in zip(states, until, strict=False):
                await clock.sleep_until(state.t_ms)
                if clock.now_ms() < until_ms:
                    yield BarUpdate(state.bar, closed=False)
            await clock.sleep_until(end_ms)
            yield BarUpdate(bar, closed=True)
            position += 1
            await asyncio.sleep(0)  # many bars may be due at once: others run in between
        await asyncio.Event().wait()  # the recording is over: nothing will come, and nothing failed

    def _started_clock(self) -> Clock:
        clock = self.context.clock
        if self._start_ms is not None:
            return ScaledClock(clock, start_ms=self._start_ms, speed=self._speed)
        if self._speed != 1:
            return ScaledClock(clock, start_ms=clock.now_ms(), speed=self._speed)
        return clock

    def _info(self, symbol: RecordedSymbol) -> SymbolInfo:
        is_history = not self._repeat and self._start_ms is None
        span = symbol.layout.span
        return SymbolInfo(
            symbol.symbol,
            symbol.market,
            name=symbol.name,
            first_ms=span.start_ms,
            last_ms=span.end_ms if is_history else None,
        )

    def _timeline(self, symbol: str, timeframe: Timeframe) -> Timeline:
        recorded = self._symbols.get(symbol)
        if recorded is None:
            raise UnknownSymbol(f"There is no recording of {symbol[:50]}.")
        timeline = recorded.timelines.get(timeframe)
        if timeline is None:
            have = ", ".join(map(str, recorded.timelines))
            raise Unsupported(f"{symbol[:50]} is recorded in {have}, and not in {timeframe}.")
        return timeline
