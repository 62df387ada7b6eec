"""How far an instrument's trades have been told to this node's clients, whoever follows them for it."""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Callable, Sequence

from marketd.domain.bar import Tick
from marketd.domain.coverage import Gap
from marketd.domain.timerange import TimeRange
from marketd.plugins.feed import TickFeed
from marketd.streaming.events import GapEvent, HealthEvent, Progress

log = logging.getLogger(__name__)

# So many ids are remembered: a trade told again is known by its id, also at another time.
_IDS_KEPT = 10_000


class TapeFront:
    """The front of one instrument's trades. `emit` is called in order and must not block.

    The trades themselves are told as they are stored, see `Tapes`: of them there is said here that all
    were told before `known_ms`, or that they cannot be, but for those that were `missed` and are still
    to be fetched.
    """

    def __init__(
        self, feed: TickFeed, emit: Callable[[GapEvent | HealthEvent | Progress], None]
    ) -> None:
        self.known_ms = feed.provider.now_ms()
        self.missed: TimeRange | None = None
        self.health = HealthEvent("live", "")
        self._instrument = feed.instrument
        self._emit = emit
        self._ids: OrderedDict[str, None] = OrderedDict()

    @property
    def whole_ms(self) -> int:
        """Nothing is missed of the time before."""
        return self.missed.start_ms if self.missed else self.known_ms

    def advance(self, known_ms: int) -> None:
        """Everything before `known_ms` was told, or that it cannot be, or it is `missed`."""
        self.known_ms = max(self.known_ms, known_ms)
        self._emit(Progress(self.whole_ms))

    def makes_up(self, until_ms: int) -> bool:
        """What was missed is told up to `until_ms`; gives whether that is not all."""
        if self.missed is not None:
            left = TimeRange(until_ms, self.missed.end_ms)
            self.missed = None if left.is_empty else left
        self.advance(until_ms)
        return self.missed is not None

    def rewind(self) -> None:
        """Leaves what is missed to whoever follows now: from there on nothing is known."""
        self.known_ms, self.missed = self.whole_ms, None

    def pass_over(self, gap: Gap) -> None:
        """Tells what cannot be had."""
        self._emit(GapEvent(gap))

    def unheard(self, ticks: Sequence[Tick]) -> list[Tick]:
        """Without those whose ids are remembered."""
        new: list[Tick] = []
        told: set[str] = set()
        for tick in ticks:
            if tick[4] not in self._ids and tick[4] not in told:
                new.append(tick)
                told.update(tick[4:] if tick[4] else ())
        return new

    def remember(self, ticks: Sequence[Tick]) -> None:
        """Remembers the ids of what a stream has said."""
        for tick in ticks:
            if tick[4]:
                self._ids[tick[4]] = None
        while len(self._ids) > _IDS_KEPT:
            self._ids.popitem(last=False)

    def tell(self, state: str, message: str) -> None:
        """Says what has become of the feed, once."""
        if state == self.health.state:
            return
        self.health = HealthEvent(state, message)
        level = logging.INFO if state == "live" else logging.WARNING
        log.log(level, "feed %s tape=%s reason=%s", state, self._instrument, message or "it speaks")
        self._emit(self.health)
