"""The registry of followed instruments: one upstream for the trades of each, however many clients."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Coroutine, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol, TypeAlias

from marketd.domain.bar import Tick
from marketd.domain.errors import Unsupported
from marketd.domain.instrument import Instrument
from marketd.domain.timerange import TimeRange
from marketd.metrics import Metrics
from marketd.plugins.feed import TickFeed
from marketd.streaming.broadcast import BroadcastManager
from marketd.streaming.events import FEED_STATES, GapEvent, HealthEvent, Progress
from marketd.streaming.member import Others
from marketd.streaming.node_tape_worker import NodeTapeWorker, SharedTape
from marketd.streaming.ring import Cursor, Replay
from marketd.streaming.tape_front import TapeFront
from marketd.streaming.tape_pages import Read, TapePages
from marketd.streaming.tape_stream import TapeListener, TapeStream, TapeSubscription
from marketd.streaming.tape_worker import BarsBeside, Tape, TapeWorker
from marketd.supervisor import Supervisor

Work: TypeAlias = Callable[[], Coroutine[Any, Any, None]]

# How many messages of a replay are sent at once.
_AT_ONCE = 100


class TapeAndPast(Tape, SharedTape, Protocol):
    """Everything that live needs of stored trades."""

    def listen(
        self,
        feed: TickFeed,
        told: Callable[[Sequence[Tick], int, bool], None],
        known_ms: Callable[[], int],
    ) -> None:
        """From now on `told` is called with what is new in the store, see TapeStream.

        `known_ms` says up to when all is stored, or cannot be had.
        """

    def leave(self, feed: TickFeed) -> None:
        """Ends that."""

    async def read(
        self, feed: TickFeed, span: TimeRange, *, limit: int, newest: bool, deadline_s: float
    ) -> Read:
        """The first `limit` trades of `span`, with the number of news told until then."""


class TapeJoined(NamedTuple):
    """Where a subscription stands at first: live tells all from `known_ms` on, or a gap, and all news
    after `seq`.

    `replay` is what a client that comes back has missed, if that is still known.
    """

    cursor: Cursor
    known_ms: int
    seq: int
    replay: Replay | None


class _Upstream:
    """A followed instrument."""

    def __init__(self, feed: TickFeed, stream: TapeStream, pages: TapePages) -> None:
        self.feed = feed
        self.stream = stream
        self.pages = pages
        self.seq = 0
        self.front: TapeFront
        self.node: NodeTapeWorker | None = None
        self.task: asyncio.Task[None]
        self.ending: asyncio.TimerHandle | None = None

    def told(self, ticks: Sequence[Tick], seq: int, is_live: bool) -> None:
        """See TapeAndPast.listen."""
        self.seq = seq
        self.pages.stored(ticks, seq)
        self.stream.told(ticks, seq, is_live)
        if self.node is not None:
            self.node.told(ticks, is_live)

    def emit(self, event: GapEvent | HealthEvent | Progress) -> None:
        """Takes what else has happened."""
        if not isinstance(event, Progress):
            self.stream.take(event)


class TapeService:
    """Starts an upstream with its first subscription, and ends it some time after its last."""

    def __init__(
        self,
        *,
        tapes: TapeAndPast,
        bars: BarsBeside,
        broadcast: BroadcastManager,
        supervisor: Supervisor,
        metrics: Metrics,
        linger_ms: int,
        stall_ms: int,
        ring: int,
        request_timeout_ms: int,
        others: Others | None = None,
    ) -> None:
        self._tapes = tapes
        self._bars = bars
        self._broadcast = broadcast
        self._supervisor = supervisor
        self._metrics = metrics
        self._linger_s = linger_ms / 1000
        self._stall_ms = stall_ms
        self._ring_size = ring
        self._request_timeout_s = request_timeout_ms / 1000
        self._others = others
        self._upstreams: dict[Instrument, _Upstream] = {}

    def check_room(self, instruments: Collection[Instrument]) -> None:
        """LimitExceeded if these streams, too, would be too many.

        Of those that are followed for the sake of bars alone the bars are counted.
        """
        told = {one for one, upstream in self._upstreams.items() if upstream.stream.channel.is_open}
        self._broadcast.check_room(len(set(instruments) - told))

    def subscribe(
        self, feed: TickFeed, subscription: TapeSubscription, resume: Cursor | None = None
    ) -> TapeJoined:
        """Adds a subscription, which waits for `go_live`; `resume` is where its client stood before.

        Raises Unsupported where the provider has no stream of trades.
        """
        upstream = self._followed(feed)
        if upstream.ending is not None:
            upstream.ending.cancel()
            upstream.ending = None
        stream = upstream.stream
        stream.greet(subscription)
        replay = None if resume is None else stream.ring.replay(resume)
        return TapeJoined(stream.cursor, upstream.front.known_ms, upstream.seq, replay)

    def unsubscribe(self, feed: TickFeed, subscription: TapeSubscription) -> None:
        """Removes a subscription; without another, its stream ends after the linger time."""
        upstream = self._upstreams[feed.instrument]
        upstream.stream.channel.remove(subscription)
        self._end_later(upstream)

    def listen(self, feed: TickFeed, listener: TapeListener) -> int:
        """Tells `listener` what becomes of an instrument's trades; gives `known_ms`, see TapeJoined.

        Raises Unsupported where the provider has no stream of trades.
        """
        upstream = self._followed(feed)
        upstream.stream.listeners.add(listener)
        if upstream.stream.health.state != "live":
            listener.take(upstream.stream.health)
        return upstream.front.known_ms

    def leave(self, feed: TickFeed, listener: TapeListener) -> None:
        """Ends that; without anybody else, its upstream ends after the linger time."""
        upstream = self._upstreams[feed.instrument]
        upstream.stream.listeners.remove(listener)
        self._end_later(upstream)

    async def read(self, feed: TickFeed, span: TimeRange, *, limit: int) -> Read:
        """The first `limit` trades of `span`, within the time of a request."""
        deadline_s = asyncio.get_running_loop().time() + self._request_timeout_s
        return await self._tapes.read(feed, span, limit=limit, newest=False, deadline_s=deadline_s)

    async def catch_up(
        self, feed: TickFeed, subscription: TapeSubscription, since: int, joined: TapeJoined
    ) -> bool:
        """Sends the stored trades from `since` on as snapshots, up to what live tells.

        A history that cannot be had is told as a gap; the answer says whether all of it was sent.
        """
        pages = self._upstreams[feed.instrument].pages
        known = TimeRange(since, joined.known_ms)
        cursor_ms = since
        complete = True
        while True:
            page = await pages.page(cursor_ms, joined.seq)
            subscription.has_read(page.span, page.seq)
            cursor_ms = page.span.end_ms
            if page.is_last:
                # A trade after the newest may still be on its way, also one before the present.
                told_ms = page.newest_ms or min(page.span.start_ms, joined.cursor.next_ms)
                until = joined.cursor._replace(next_ms=told_ms)
            else:
                until = joined.cursor.within_history(cursor_ms)
            complete = complete and not page.missing(known)
            await subscription.send(page.messages(known, until))
            if page.is_last:
                return complete

    async def resume(
        self, feed: TickFeed, subscription: TapeSubscription, cursor: Cursor, joined: TapeJoined
    ) -> bool:
        """Sends what a client has missed since `cursor`; False if it may lack something even so."""
        if joined.replay is None:
            # Every trade is in the store, but not which of those before were told late since.
            await self.catch_up(feed, subscription, cursor.next_ms, joined)
            return False
        messages = joined.replay.messages
        for first in range(0, len(messages), _AT_ONCE):
            await subscription.send(messages[first : first + _AT_ONCE])
        return True

    def feeds(self, provider: str) -> dict[str, int]:
        """How many instruments of a provider are followed, by the state of their feed."""
        counts = dict.fromkeys(FEED_STATES, 0)
        for upstream in self._upstreams.values():
            if upstream.feed.provider.name == provider:
                counts[upstream.stream.health.state] += 1
        return counts

    def _followed(self, feed: TickFeed) -> _Upstream:
        """The upstream of an instrument."""
        if not feed.provider.streams_ticks:
            raise Unsupported(f"{feed.provider.name} has no stream of trades.")
        return self._upstreams.get(feed.instrument) or self._follow(feed)

    def _end_later(self, upstream: _Upstream) -> None:
        """Ends what nobody is left for by then."""
        if not upstream.stream.channel:
            if upstream.ending is not None:
                upstream.ending.cancel()
            loop = asyncio.get_running_loop()
            upstream.ending = loop.call_later(self._linger_s, self._end, upstream)

    def _follow(self, feed: TickFeed) -> _Upstream:
        provider = feed.provider
        lag = self._metrics.stream_tick_lag.labels(provider.name)
        stream = TapeStream(
            feed.instrument,
            provider.now_ms(),
            self._broadcast,
            ring_size=self._ring_size,
            on_written=lambda t_ms: lag.observe(max(0, provider.now_ms() - t_ms) / 1000),
        )
        upstream = _Upstream(feed, stream, TapePages(feed.instrument, partial(self._read, feed)))
        if self._others is None:
            front = TapeFront(feed, upstream.emit)
            work: Work = partial(self._follow_provider, stream, feed, front)
        else:
            upstream.node = NodeTapeWorker(
                feed,
                upstream.emit,
                others=self._others,
                tape=self._tapes,
                follow=partial(self._follow_provider, stream),
            )
            front, work = upstream.node.front, upstream.node.run
        upstream.front = front
        self._tapes.listen(feed, upstream.told, lambda: front.known_ms)
        upstream.task = self._supervisor.run(f"follow trades of {feed.instrument}", work)
        self._upstreams[feed.instrument] = upstream
        self._metrics.tape_upstreams.set(len(self._upstreams))
        return upstream

    async def _follow_provider(self, stream: TapeStream, feed: TickFeed, front: TapeFront) -> None:
        worker = TapeWorker(
            feed,
            front,
            tape=self._tapes,
            bars=self._bars,
            told_ms=lambda: stream.told_ms,
            stall_ms=self._stall_ms,
        )
        await worker.follow()

    async def _read(self, feed: TickFeed, span: TimeRange, limit: int) -> Read:
        deadline_s = asyncio.get_running_loop().time() + self._request_timeout_s
        return await self._tapes.read(feed, span, limit=limit, newest=False, deadline_s=deadline_s)

    def _end(self, upstream: _Upstream) -> None:
        upstream.ending = None
        upstream.stream.channel.close()
        if upstream.stream.listeners:
            return
        upstream.task.cancel()
        self._tapes.leave(upstream.feed)
        del self._upstreams[upstream.feed.instrument]
        self._metrics.tape_upstreams.set(len(self._upstreams))
