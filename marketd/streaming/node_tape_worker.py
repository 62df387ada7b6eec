"""The trades of an instrument among several nodes: as the leader tells them, and as they are told on.

The store numbers them, so that each node knows which of them it lacks, also of those that came late.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from dataclasses import replace
from typing import Any, Protocol

from marketd.domain.bar import Tick
from marketd.domain.coverage import Gap
from marketd.domain.timerange import TimeRange
from marketd.plugins.feed import TickFeed
from marketd.storage import AddedTicks
from marketd.streaming.events import GapEvent, HealthEvent, Progress
from marketd.streaming.member import Member, Others
from marketd.streaming.tape_bulletin import TapeBulletin
from marketd.streaming.tape_front import TapeFront

# The most trades in one word; more are read from the store.
_MOST_TICKS = 1_000


class SharedTape(Protocol):
    """What a node needs of the trades that are stored, by itself and by others."""

    def number(self, feed: TickFeed) -> int | None:
        """Up to which number those in the store were told here; None if that is not known yet."""

    async def hear(
        self, feed: TickFeed, added: AddedTicks | None, number: int, *, is_live: bool
    ) -> None:
        """Tells here what another process has stored, up to `number`; None: it is looked up."""

    async def catch_up(self, feed: TickFeed, since_ms: int) -> int:
        """Tells here what others have stored until now.

        Gives the end of the newest time from `since_ms` on of which the store knows something.
        """

    async def make_up(self, feed: TickFeed, span: TimeRange) -> list[Gap]:
        """What of `span` is not proven and cannot be had."""


class NodeTapeWorker(Member[TapeBulletin]):
    """Follows `feed` with the help of other nodes. `emit` is called in order and must not block.

    `follow` moves the front on at the provider, see TapeWorker; `told` is to be called with what clients
    were told.
    """

    front: TapeFront

    def __init__(
        self,
        feed: TickFeed,
        emit: Callable[[GapEvent | HealthEvent], None],
        *,
        others: Others,
        tape: SharedTape,
        follow: Callable[[TickFeed, TapeFront], Coroutine[Any, Any, None]],
    ) -> None:
        super().__init__(feed.instrument, others)
        self.front = TapeFront(feed, self._emit)
        self._feed = feed
        self._tell_clients = emit
        self._tape = tape
        self._follow_provider = follow
        # While this node leads: what it has told the others.
        self._told_ms = 0
        self._told_number = 0
        self._has_gap = False

    def told(self, ticks: Sequence[Tick], is_live: bool) -> None:
        """Tells the other nodes what has been told here, if this one leads."""
        if self._leads:
            said = ticks if len(ticks) <= _MOST_TICKS else None
            self._publish(self._bulletin(self._told_number, self._told_ms, said, is_live))
            self._told_number = self._number()

    async def _work(self, fence: int | None) -> None:
        await self._follow_provider(replace(self._feed, fence=fence), self.front)

    async def _begin_to_lead(self) -> None:
        front = self.front
        known_ms = await self._tape.catch_up(self._feed, front.known_ms)
        if not self._feed.provider.has_tick_history:
            # Of what lies behind that nothing will ever be known; the stream goes on from there.
            await self._know(known_ms)
        self._told_number, self._told_ms = self._number(), front.whole_ms
        self._has_gap = False

    async def _take(self, word: TapeBulletin) -> None:
        self.front.rewind()
        added = None if word.ticks is None else AddedTicks([*word.ticks], word.before, word.number)
        await self._tape.hear(self._feed, added, word.number, is_live=word.is_live)
        if word.ticks:
            self.front.remember(word.ticks)
            self._metrics.bus_lag.observe(max(0, self._clock.now_ms() - word.sent_ms) / 1000)
        if word.has_gap or word.from_ms > self.front.known_ms:
            await self._know(word.known_ms)
        self.front.advance(word.known_ms)
        self.front.tell(word.state, word.message)

    async def _know(self, known_ms: int) -> None:
        """Tells what cannot be had of the time up to `known_ms`."""
        span = TimeRange(self.front.known_ms, known_ms)
        if not span.is_empty:
            for gap in await self._tape.make_up(self._feed, span):
                self.front.pass_over(gap)
            self.front.advance(known_ms)

    def _word(self) -> TapeBulletin:
        return self._bulletin(self._number(), self.front.whole_ms, [], is_live=False)

    def _unpack(self, data: bytes) -> TapeBulletin | None:
        return TapeBulletin.unpack(data)

    def _emit(self, event: GapEvent | HealthEvent | Progress) -> None:
        if not isinstance(event, Progress):
            self._tell_clients(event)
        if not self._leads:
            return
        match event:
            case GapEvent():
                self._has_gap = True
            case Progress(whole_ms) if whole_ms > self._told_ms:
                self._publish(self._bulletin(self._told_number, self._told_ms, []))
                self._told_ms, self._has_gap = whole_ms, False
            case HealthEvent():
                self._publish(self._bulletin(self._told_number, self._told_ms, []))

    def _number(self) -> int:
        return self._tape.number(self._feed) or 0

    def _bulletin(
        self, before: int, from_ms: int, ticks: Sequence[Tick] | None, is_live: bool = False
    ) -> TapeBulletin:
        state, message = self.front.health
        return TapeBulletin(
            self._fence,
            self._clock.now_ms(),
            before,
            self._number(),
            ticks,
            is_live,
            from_ms,
            self.front.whole_ms,
            self._has_gap,
            state,
            message,
        )
