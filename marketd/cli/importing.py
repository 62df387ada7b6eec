"""What an import does with one file after another: store what is good, tell what is not."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Iterator
from pathlib import Path

import click
import numpy as np

from marketd.barfiles.layout import BadFile, Layout
from marketd.barfiles.reader import Part, read_parts
from marketd.cli.progress import Progress
from marketd.cli.store import Store
from marketd.clock import Clock
from marketd.domain.coverage import Reason, cover
from marketd.domain.instrument import Series
from marketd.domain.timeframe import IntArray, Timeframe
from marketd.domain.timerange import TimeRange

# The rows of a file that are told one by one; the others are counted.
_TOLD = 20


def runs(t_ms: IntArray, timeframe: Timeframe) -> list[TimeRange]:
    """The intervals of ascending bars, those that touch as one."""
    if not len(t_ms):
        return []
    if timeframe.is_calendar:
        ends_ms = np.array([timeframe.end(t) for t in t_ms.tolist()], dtype=np.int64)
    else:
        ends_ms = t_ms + timeframe.nominal_ms
    breaks = np.flatnonzero(t_ms[1:] != ends_ms[:-1])
    starts_ms = t_ms[np.concatenate([[0], breaks + 1])]
    stops_ms = ends_ms[np.concatenate([breaks, [len(t_ms) - 1]])]
    return [TimeRange(*run) for run in zip(starts_ms.tolist(), stops_ms.tolist(), strict=True)]


async def _ahead(parts: Iterator[Part]) -> AsyncGenerator[Part, None]:
    """The parts, each read from the file while the one before is stored."""
    reading = asyncio.create_task(asyncio.to_thread(next, parts, None))
    try:
        while part := await reading:
            reading = asyncio.create_task(asyncio.to_thread(next, parts, None))
            yield part
    finally:
        # A thread cannot be stopped, and what it would have said is of no use any more.
        await asyncio.gather(reading, return_exceptions=True)


class Importer:
    """Takes files into one series."""

    def __init__(
        self, store: Store, series: Series, layout: Layout, clock: Clock, *, complete: bool
    ) -> None:
        self._store = store
        self._series = series
        self._layout = layout
        self._clock = clock
        self._complete = complete

    async def take(self, path: Path, progress: Progress) -> bool:
        """Stores the good rows of a file; False if there was anything in it that was not taken.

        Bars prove the intervals that they are of. That the whole file proves what lies between is said
        at its end, when nothing in it was refused.
        """
        counts: Counter[str] = Counter()
        first_ms: int | None = None
        last_ms = 0
        timeframe = self._series.timeframe
        before_ms = timeframe.floor(self._clock.now_ms())
        parts = _ahead(read_parts(path, timeframe, self._layout, before_ms=before_ms))
        fault = ""
        with progress.running():
            try:
                async for part in parts:
                    for place, reason in part.bad[: max(0, _TOLD - counts["refused"])]:
                        progress.note(f"{path.name}, {place}: {reason}.")
                    counts["refused"] += len(part.bad)
                    counts += await self._keep(part)
                    if len(part.recording):
                        start_ms, end_ms = int(part.recording.t[0]), int(part.recording.t[-1])
                        first_ms = start_ms if first_ms is None else min(first_ms, start_ms)
                        last_ms = max(last_ms, end_ms)
                    progress.advance(len(part.recording), part.done)
            except BadFile as error:
                fault = str(error)
            finally:
                await parts.aclose()
        good = not fault and not counts["refused"]
        if counts["refused"] > _TOLD:
            click.echo(f"{path.name}: {counts['refused'] - _TOLD:,} more rows are no bars.", err=True)
        if fault:
            click.echo(f"{fault} What came before is stored.", err=True)
        click.echo(f"{path.name}: {_summary(counts)}")
        if self._complete and first_ms is not None:
            if good:
                whole = TimeRange(first_ms, timeframe.end(last_ms))
                await self._store.store(self._series, [], cover([whole], Reason.DATA), at_ms=before_ms)
            else:
                click.echo(f"{path.name}: not taken as complete, since a part was refused.", err=True)
        return good

    async def _keep(self, part: Part) -> Counter[str]:
        bars = part.recording.bars()
        if not bars:
            return Counter()
        covered = cover(runs(part.recording.t, self._series.timeframe), Reason.DATA)
        stored = await self._store.store(self._series, bars, covered, at_ms=self._clock.now_ms())
        changed = len(stored.revised)
        same = len(bars) - stored.inserted - changed
        return Counter(new=stored.inserted, changed=changed, same=same)


def _summary(counts: Counter[str]) -> str:
    """Such as `1,440 bars: 1,000 new, 440 as they were, and 2 rows refused`."""
    said = {"new": "new", "changed": "changed", "same": "as they were"}
    total = sum(counts[kind] for kind in said)
    parts = [f"{counts[kind]:,} {words}" for kind, words in said.items() if counts[kind]]
    text = f"{total:,} bars" + (f": {', '.join(parts)}" if parts else "")
    if total and counts["same"] == total:
        text = f"{total:,} bars, nothing new"
    return text + (f", and {counts['refused']:,} rows refused" if counts["refused"] else "")
