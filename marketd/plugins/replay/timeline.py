"""Laying a recording along absolute time: once at its own times, or in laps that reach the present.

Pure arithmetic: where a bar lies never depends on when anything was opened, so a restart changes
nothing. All recordings of one symbol share one layout, and so agree with each other.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from math import lcm

import numpy as np

from marketd.barfiles.recording import Recording
from marketd.domain.bar import Bar
from marketd.domain.timeframe import DAY_MS, Timeframe
from marketd.domain.timerange import MAX_MS, TimeRange

_WEEK_MS = 7 * DAY_MS
_HISTORY_MS = 20 * 366 * DAY_MS


@dataclass(frozen=True, slots=True)
class Layout:
    """Lap 0 begins at `origin_ms` with the recording's own times, and lap k is `k * lap_ms` later.
    Bars exist in `span` alone."""

    origin_ms: int
    lap_ms: int
    span: TimeRange


def extent(recordings: Mapping[Timeframe, Recording]) -> TimeRange:
    """From the first open to the last close of a symbol's recordings."""
    return TimeRange(
        min(int(recording.t[0]) for recording in recordings.values()),
        max(timeframe.end(int(recording.t[-1])) for timeframe, recording in recordings.items()),
    )


def once(recorded: TimeRange) -> Layout:
    """At the recording's own times."""
    return Layout(recorded.start_ms, recorded.end_ms - recorded.start_ms, recorded)


def in_laps(recorded: TimeRange, timeframes: Collection[Timeframe]) -> Layout:
    """Repeated without end, and twenty years back from the recording's first bar (not before 1970).

    A lap is the recorded time rounded up to whole weeks, so that weekdays and times of day stay what
    they were; if it is shorter than a week to whole days, and if shorter than a day to a multiple of
    its timeframes. What the rounding adds is a hole between two laps: nothing was recorded there.

    Raises ValueError for months and years, which are not all of one length.
    """
    if any(timeframe.is_calendar for timeframe in timeframes):
        raise ValueError("months and years cannot be repeated")
    length_ms = recorded.end_ms - recorded.start_ms
    whole_ms = next((whole for whole in (_WEEK_MS, DAY_MS) if length_ms >= whole), 1)
    unit_ms = lcm(whole_ms, *(timeframe.nominal_ms for timeframe in timeframes))
    lap_ms = -(-length_ms // unit_ms) * unit_ms
    laps_back = min(_HISTORY_MS, recorded.start_ms) // lap_ms
    first_ms = recorded.start_ms - laps_back * lap_ms
    return Layout(recorded.start_ms, lap_ms, TimeRange(first_ms, MAX_MS))


class Timeline:
    """One recording in its layout: a sequence of bars, each found by its position.

    Positions ascend with time and are whole numbers; those of lap 0 are the rows of the recording,
    and laps before it have negative ones.
    """

    def __init__(self, recording: Recording, layout: Layout) -> None:
        self._recording = recording
        self._layout = layout
        self.stop = self.position(layout.span.end_ms)

    def position(self, t_ms: int) -> int:
        """The position of the first bar that opens at or after `t_ms`; `stop` if there is none."""
        layout = self._layout
        t_ms = min(max(t_ms, layout.span.start_ms), layout.span.end_ms)
        lap, within_ms = divmod(t_ms - layout.origin_ms, layout.lap_ms)
        row = np.searchsorted(self._recording.t, layout.origin_ms + within_ms)
        return lap * len(self._recording) + int(row)

    def bars(self, start: int, stop: int) -> list[Bar]:
        """The bars at the positions `[start, stop)`."""
        lap, row = np.divmod(np.arange(start, stop), len(self._recording))
        t = self._recording.t[row] + lap * self._layout.lap_ms
        values = (column.take(row) for column in self._recording.values)
        return list(zip(t.tolist(), *values, strict=True))
