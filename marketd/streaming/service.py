"""The registry of what is followed: one worker a base series, one stream a timeframe asked for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple, Protocol

from marketd.domain.errors import InvalidInput, MarketdError
from marketd.domain.instrument import Series
from marketd.domain.timerange import TimeRange
from marketd.metrics import Metrics
from marketd.plugins.feed import Feed
from marketd.storage import Change, Storage
from marketd.streaming.broadcast import BroadcastManager
from marketd.streaming.derive import Deriver
from marketd.streaming.events import FEED_STATES, Event, HealthEvent
from marketd.streaming.front import Front
from marketd.streaming.needs import History
from marketd.streaming.pages import Pages
from marketd.streaming.revisions import missed, whole
from marketd.streaming.ring import Cursor, Replay
from marketd.streaming.stream import BarSubscription, Stream
from marketd.supervisor import Supervisor

_RETRY_S = 2.0
# How many bars of history are sent at once.
_PAGE = 2_000


class Worker(Protocol):
    """Who follows a base series, until `run` is cancelled."""

    front: Front

    async def run(self) -> None: ...


class _Upstream:
    """A followed base series, with the streams that are made of it."""

    def __init__(self, feed: Feed) -> None:
        self.feed = feed
        self.worker: Worker
        self.task: asyncio.Task[None]
        self.streams: dict[Series, Stream] = {}
        self.health = HealthEvent("live", "")

    def emit(self, event: Event) -> None:
        """An event of the base series: for the stream that it is, and for those derived from it."""
        if isinstance(event, HealthEvent):
            self.health = event
        for stream in self.streams.values():
            if stream.deriver is None:
                stream.take(event)
            else:
                stream.deriver.take(event)


class Joined(NamedTuple):
    """Where a subscription stands at first: `cursor` is that of a client which has all before live.

    `replay` is what a client that comes back has missed, if that is still known.
    """

    cursor: Cursor
    replay: Replay | None

    @property
    def live_ms(self) -> int:
        """Every closed bar that opens at or after this time will be delivered; others are history."""
        return self.cursor.next_ms


class SubscriptionService:
    """Starts an upstream with its first subscription, and ends it some time after its last."""

    def __init__(
        self,
        *,
        history: History,
        storage: Storage,
        broadcast: BroadcastManager,
        supervisor: Supervisor,
        metrics: Metrics,
        linger_ms: int,
        workers: Callable[[Feed, Callable[[Event], None]], Worker],
        ring: int,
    ) -> None:
        self._history = history
        self._supervisor = supervisor
        self._metrics = metrics
        self._linger_s = linger_ms / 1000
        self._workers = workers
        self._ring_size = ring
        self._broadcast = broadcast
        self._pages = Pages(history, _PAGE, missed=partial(missed, storage, history))
        self._upstreams: dict[Series, _Upstream] = {}
        storage.listen(self._changed)

    def check_room(self, feeds: Mapping[Series, Feed]) -> None:
        """LimitExceeded if these streams, each with the feed behind it, would be too many."""
        self._broadcast.check_room(
            sum(not self._is_followed(series, feed) for series, feed in feeds.items())
        )

    def subscribe(
        self, feed: Feed, subscription: BarSubscription[Series], resume: Cursor | None = None
    ) -> Joined:
        """Adds a subscription, which waits for `go_live`; `resume` is where its client stood before.

        Raises InvalidInput if that is still to come.
        """
        series = subscription.series
        if resume is not None and resume.next_ms > series.timeframe.end(feed.provider.now_ms()):
            raise InvalidInput("resume is of a time that is still to come.", field="resume")
        upstream = self._upstreams.get(feed.series) or self._follow(feed)
        stream = upstream.streams.get(series) or self._derive(upstream, series)
        if stream.ending is not None:
            stream.ending.cancel()
            stream.ending = None
        stream.channel.add(subscription)
        for message in stream.greeting(upstream.health):
            subscription.keep(message)
        return Joined(stream.cursor, None if resume is None else stream.ring.replay(resume))

    def unsubscribe(self, feed: Feed, subscription: BarSubscription[Series]) -> None:
        """Removes a subscription; a stream without another ends after the linger time."""
        upstream = self._upstreams[feed.series]
        stream = upstream.streams[subscription.series]
        stream.channel.remove(subscription)
        if not stream.channel:
            loop = asyncio.get_running_loop()
            stream.ending = loop.call_later(self._linger_s, self._end, upstream, stream)

    async def catch_up(
        self, feed: Feed, subscription: BarSubscription[Series], since: int, joined: Joined
    ) -> bool:
        """Sends the closed bars from `since` on up to where live begins; see Pages.send."""
        # Of a crowd each asks from its own millisecond, and all of them for the same bars.
        first_ms = subscription.series.timeframe.ceil(since)
        return await self._pages.send(feed, subscription, first_ms, await self._numbered(feed, joined))

    async def resume(
        self, feed: Feed, subscription: BarSubscription[Series], cursor: Cursor, joined: Joined
    ) -> bool:
        """Sends what a client has missed since `cursor`; see Pages.resume."""
        until = await self._numbered(feed, joined)
        if cursor.next_ms > until.next_ms:
            # Another node, which has told it so, was faster than this one.
            subscription.leave_out(cursor.next_ms)
            await self._upstreams[feed.series].streams[subscription.series].reached(cursor.next_ms)
            subscription.leave_out(0)
            until = until._replace(next_ms=cursor.next_ms)
        return await self._pages.resume(feed, subscription, cursor, joined.replay, until)

    async def _numbered(self, feed: Feed, joined: Joined) -> Cursor:
        """The cursor of a client that has all before live: its number is known before that is read."""
        if joined.cursor.number is not None:
            return joined.cursor
        front = self._upstreams[feed.series].worker.front
        return joined.cursor._replace(number=await front.known())

    def feeds(self, provider: str) -> dict[str, int]:
        """How many series of a provider are followed, by the state of their feed."""
        counts = dict.fromkeys(FEED_STATES, 0)
        for upstream in self._upstreams.values():
            if upstream.feed.provider.name == provider:
                counts[upstream.health.state] += 1
        return counts

    def _changed(self, change: Change | None) -> None:
        """Something was stored, perhaps by another process: of a series that is followed, it is told."""
        self._pages.changed(change)
        for series, upstream in self._upstreams.items():
            if change is None or change.series == series:
                upstream.worker.front.changed(change)

    def _is_followed(self, series: Series, feed: Feed) -> bool:
        upstream = self._upstreams.get(feed.series)
        return upstream is not None and series in upstream.streams

    def _follow(self, feed: Feed) -> _Upstream:
        upstream = _Upstream(feed)
        upstream.worker = self._workers(feed, upstream.emit)
        upstream.task = self._supervisor.run(f"follow {feed.series}", upstream.worker.run)
        self._upstreams[feed.series] = upstream
        self._metrics.stream_upstreams.set(len(self._upstreams))
        return upstream

    def _derive(self, upstream: _Upstream, series: Series) -> Stream:
        """The stream of `series`: the base itself, or one that is made of it."""
        next_ms = upstream.worker.front.next_ms
        bucket = TimeRange(series.timeframe.floor(next_ms), next_ms)
        provider = upstream.feed.provider
        lag = self._metrics.stream_lag.labels(provider.name)
        stream = Stream(
            series,
            bucket.start_ms,
            upstream.worker.front.number,
            self._broadcast,
            ring_size=self._ring_size,
            on_written=lambda closed_ms: lag.observe((provider.now_ms() - closed_ms) / 1000),
        )
        upstream.streams[series] = stream
        if series != upstream.feed.series:
            stream.deriver = Deriver(series.timeframe, next_ms, emit=stream.take, revise=stream.revise)
            work = partial(self._supply, upstream.feed, stream, stream.deriver, bucket)
            stream.task = self._supervisor.run(f"derive {series}", work)
        return stream

    async def _supply(self, feed: Feed, stream: Stream, deriver: Deriver, bucket: TimeRange) -> None:
        """Brings the base bars that a derived stream needs of history, as soon as they can be had.

        At first what its first bucket holds already, then those of every bucket of the past that has
        changed.
        """
        is_down = False
        while True:
            try:
                if deriver.is_waiting:
                    deriver.begin(*await self._history.closed(feed, bucket))
                else:
                    bucket_ms, rev = await stream.next_revised()
                    try:
                        bar = await whole(self._history, feed, stream.series, bucket_ms)
                    except MarketdError:
                        stream.revise(bucket_ms, rev)
                        raise
                    stream.revised(bucket_ms, rev, bar)
            except MarketdError as error:
                if not is_down:
                    stream.take(HealthEvent("down", error.message))
                is_down = True
                await asyncio.sleep(_RETRY_S)
            else:
                if is_down:
                    stream.take(HealthEvent("live", ""))
                is_down = False

    def _end(self, upstream: _Upstream, stream: Stream) -> None:
        del upstream.streams[stream.series]
        stream.channel.close()
        if stream.task is not None:
            stream.task.cancel()
        if not upstream.streams:
            upstream.task.cancel()
            del self._upstreams[upstream.feed.series]
            self._metrics.stream_upstreams.set(len(self._upstreams))
