"""A coarser timeframe live, made of a followed base series by the same resampler that history uses."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from marketd.domain.bar import Bar, open_time
from marketd.domain.coverage import Gap
from marketd.domain.resample import resample
from marketd.domain.timeframe import Timeframe
from marketd.streaming.events import BarEvent, Event, GapEvent, Progress


class Deriver:
    """Turns the events of a base series into those of `timeframe`.

    It begins at the bucket that holds `next_ms`. Until `begin` brings the bucket's earlier bars, the
    events wait in it. `revise` is told the start of a bucket that was published and has changed since,
    with the revision of the base bar that changed it.
    """

    def __init__(
        self,
        timeframe: Timeframe,
        next_ms: int,
        *,
        emit: Callable[[Event], None],
        revise: Callable[[int, int], None],
    ) -> None:
        self.bucket_ms = timeframe.floor(next_ms)
        self._revise = revise
        self._timeframe = timeframe
        self._emit = emit
        self._bars: list[Bar] = []
        self._broken_until_ms = self.bucket_ms
        self._waiting: list[Event] | None = []

    @property
    def is_waiting(self) -> bool:
        """Whether `begin` has still to come."""
        return self._waiting is not None

    def begin(self, bars: Sequence[Bar], gaps: Sequence[Gap]) -> None:
        """Takes the bucket's closed base bars before `next_ms`, what they lack, and what has waited."""
        self._bars = list(bars)
        waiting, self._waiting = self._waiting, None
        for gap in gaps:
            self.take(GapEvent(gap))
        for event in waiting or ():
            self.take(event)

    def take(self, event: Event) -> None:
        """One event of the base series, in order."""
        if self._waiting is not None:
            # That may take as long as the provider is away: a forming bar gives way to the next.
            if self._waiting and _is_forming(self._waiting[-1]) and _is_forming(event):
                self._waiting.pop()
            self._waiting.append(event)
        elif isinstance(event, Progress):
            self._close_until(event.next_ms)
        elif isinstance(event, BarEvent):
            self._take_bar(event)
        else:
            if isinstance(event, GapEvent):
                # What a gap touches is never published in part.
                self._broken_until_ms = self._timeframe.ceil(event.gap.end_ms)
            self._emit(event)

    def _take_bar(self, event: BarEvent) -> None:
        bar = event.bar
        if bar[0] < self.bucket_ms:
            self._revise(self._timeframe.floor(bar[0]), event.rev)
            return
        if event.rev:
            others = [kept for kept in self._bars if kept[0] != bar[0]]
            self._bars = sorted([*others, bar], key=open_time)
        elif event.closed:
            # History may bring bars of several buckets at once: their progress comes after them.
            self._close_until(self._timeframe.floor(bar[0]))
            self._bars.append(bar)
        else:
            self._publish([*self._bars, bar], closed=False)
            return
        self._publish(self._bars, closed=False)

    def _close_until(self, next_ms: int) -> None:
        if next_ms < self._timeframe.end(self.bucket_ms):
            return
        if self._bars:
            self._publish(self._bars, closed=True)
        self._bars = []
        self.bucket_ms = self._timeframe.floor(next_ms)
        self._emit(Progress(self.bucket_ms))

    def _publish(self, bars: Sequence[Bar], *, closed: bool) -> None:
        if self.bucket_ms >= self._broken_until_ms:
            (whole,) = resample(bars, self._timeframe)
            self._emit(BarEvent(whole, closed))


def _is_forming(event: Event) -> bool:
    return isinstance(event, BarEvent) and not event.closed
