"""The registry of what is followed: one worker a base series, one stream a timeframe asked for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from functools import partial
from typing import Any, Protocol

from marketd.domain.errors import MarketdError
from marketd.domain.instrument import Series
from marketd.domain.resample import resample
from marketd.domain.timerange import TimeRange
from marketd.metrics import Metrics
from marketd.plugins.feed import Feed
from marketd.storage import Storage
from marketd.streaming.broadcast import BroadcastManager
from marketd.streaming.derive import Deriver
from marketd.streaming.events import FEED_STATES, BarEvent, Event, HealthEvent, Progress
from marketd.streaming.messages import event_message
from marketd.streaming.subscription import Past, Subscription
from marketd.streaming.worker import History, SeriesWorker
from marketd.supervisor import Supervisor

_RETRY_S = 2.0


class _Stream:
    """One timeframe of a followed series."""

    def __init__(self, series: Series, next_ms: int, publish: Callable[[Series, Event], None]) -> None:
        self.series = series
        self.next_ms = next_ms
        self.forming: BarEvent | None = None
        self.deriver: Deriver | None = None
        self.tasks: set[asyncio.Task[None]] = set()
        self._publish = publish

    def take(self, event: Event) -> None:
        """An event of this very timeframe."""
        if isinstance(event, Progress):
            self.next_ms = event.next_ms
            self.forming = None
        elif isinstance(event, BarEvent) and not event.closed:
            self.forming = event
        self._publish(self.series, event)


class _Upstream:
    """A followed base series, with the streams that are made of it."""

    def __init__(self, feed: Feed) -> None:
        self.feed = feed
        self.worker: SeriesWorker
        self.task: asyncio.Task[None]
        self.streams: dict[Series, _Stream] = {}
        self.health = HealthEvent("live", "")
        self.ending: asyncio.TimerHandle | None = None

    def emit(self, event: Event) -> None:
        """An event of the base series: for the stream that it is, and for those derived from it."""
        if isinstance(event, HealthEvent):
            self.health = event
        for stream in self.streams.values():
            if stream.deriver is None:
                stream.take(event)
            else:
                stream.deriver.take(event)


class HistoryAndPast(History, Past, Protocol):
    """Everything that live needs of history."""


class SubscriptionService:
    """Starts an upstream with its first subscription, and ends it some time after its last."""

    def __init__(
        self,
        *,
        history: HistoryAndPast,
        storage: Storage,
        supervisor: Supervisor,
        metrics: Metrics,
        linger_ms: int,
        stall_ms: int,
    ) -> None:
        self._history = history
        self._storage = storage
        self._supervisor = supervisor
        self._metrics = metrics
        self._linger_s = linger_ms / 1000
        self._stall_ms = stall_ms
        self._broadcast = BroadcastManager(metrics)
        self._upstreams: dict[Series, _Upstream] = {}

    def subscribe(self, feed: Feed, subscription: Subscription) -> int:
        """Adds a subscription, which waits for `go_live`; gives the time from which live is whole.

        Every closed bar that opens at or after that time will be delivered; those before are history.
        """
        upstream = self._upstreams.get(feed.series) or self._follow(feed)
        if upstream.ending is not None:
            upstream.ending.cancel()
            upstream.ending = None
        series = subscription.series
        stream = upstream.streams.get(series) or self._derive(upstream, series)
        self._broadcast.add(subscription)
        for event in (stream.forming, upstream.health if upstream.health.state != "live" else None):
            if event is not None:
                message = event_message(series, event)
                assert message is not None  # noqa: S101 - both kinds have one
                subscription.deliver(event, message)
        return stream.next_ms

    def unsubscribe(self, feed: Feed, subscription: Subscription) -> None:
        """Removes a subscription; without another, its upstream ends after the linger time."""
        if not self._broadcast.remove(subscription):
            return
        upstream = self._upstreams[feed.series]
        stream = upstream.streams.pop(subscription.series)
        for task in stream.tasks:
            task.cancel()
        if not upstream.streams:
            loop = asyncio.get_running_loop()
            upstream.ending = loop.call_later(self._linger_s, self._end, upstream)

    async def catch_up(self, feed: Feed, subscription: Subscription, *, since: int, before: int) -> bool:
        """See Subscription.catch_up."""
        return await subscription.catch_up(self._history, feed, since=since, before=before)

    def feeds(self, provider: str) -> dict[str, int]:
        """How many series of a provider are followed, by the state of their feed."""
        counts = dict.fromkeys(FEED_STATES, 0)
        for upstream in self._upstreams.values():
            if upstream.feed.provider.name == provider:
                counts[upstream.health.state] += 1
        return counts

    def _follow(self, feed: Feed) -> _Upstream:
        upstream = _Upstream(feed)
        upstream.worker = SeriesWorker(
            feed,
            history=self._history,
            storage=self._storage,
            emit=upstream.emit,
            stall_ms=self._stall_ms,
        )
        upstream.task = self._supervisor.run(f"follow {feed.series}", upstream.worker.run)
        self._upstreams[feed.series] = upstream
        self._metrics.stream_upstreams.set(len(self._upstreams))
        return upstream

    def _derive(self, upstream: _Upstream, series: Series) -> _Stream:
        """The stream of `series`: the base itself, or one that is made of it."""
        next_ms = upstream.worker.next_ms
        stream = _Stream(series, next_ms, self._broadcast.publish)
        upstream.streams[series] = stream
        if series != upstream.feed.series:
            stream.deriver = deriver = Deriver(
                series.timeframe,
                next_ms,
                emit=stream.take,
                revise=lambda bucket_ms, rev: self._run(
                    stream, partial(self._revise, upstream.feed, stream, bucket_ms, rev)
                ),
            )
            stream.next_ms = deriver.bucket_ms
            bucket = TimeRange(deriver.bucket_ms, next_ms)
            self._run(stream, partial(self._begin, upstream.feed, stream, deriver, bucket))
        return stream

    def _run(self, stream: _Stream, work: Callable[[], Coroutine[Any, Any, None]]) -> None:
        task = self._supervisor.run(f"derive {stream.series}", work)
        stream.tasks.add(task)
        task.add_done_callback(stream.tasks.discard)

    async def _begin(self, feed: Feed, stream: _Stream, deriver: Deriver, bucket: TimeRange) -> None:
        """Hands the deriver what its first bucket holds already, as soon as that can be had."""
        while True:
            try:
                bars, gaps = await self._history.closed(feed, bucket)
            except MarketdError as error:
                stream.take(HealthEvent("down", error.message))
                await asyncio.sleep(_RETRY_S)
            else:
                return deriver.begin(bars, gaps)

    async def _revise(self, feed: Feed, stream: _Stream, bucket_ms: int, rev: int) -> None:
        """Publishes a bucket of the past as it has become."""
        timeframe = stream.series.timeframe
        bars, gaps = await self._history.closed(feed, TimeRange(bucket_ms, timeframe.end(bucket_ms)))
        if bars and not gaps:
            (whole,) = resample(bars, timeframe)
            stream.take(BarEvent(whole, closed=True, rev=rev))

    def _end(self, upstream: _Upstream) -> None:
        upstream.task.cancel()
        del self._upstreams[upstream.feed.series]
        self._metrics.stream_upstreams.set(len(self._upstreams))
