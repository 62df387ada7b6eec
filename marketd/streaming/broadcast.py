"""Who is told what: the subscriptions of every stream, and one message for all of them."""

from __future__ import annotations

from typing import Generic

from marketd.metrics import Metrics
from marketd.streaming.messages import Message, S
from marketd.streaming.subscription import Subscription


class BroadcastManager(Generic[S]):
    """Fans events out to subscriptions. Publishing only enqueues: it never waits for a client."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._streams: dict[S, set[Subscription[S]]] = {}

    def add(self, subscription: Subscription[S]) -> None:
        """From now on the subscription is told what is published of its series."""
        self._streams.setdefault(subscription.series, set()).add(subscription)
        self._metrics.stream_subscriptions.inc()
        self._metrics.stream_subscribes.inc()

    def remove(self, subscription: Subscription[S]) -> bool:
        """Ends that; True if the series has no subscription left."""
        stream = self._streams[subscription.series]
        stream.remove(subscription)
        self._metrics.stream_subscriptions.dec()
        if not stream:
            del self._streams[subscription.series]
        return not stream

    def publish(self, series: S, message: Message) -> bool:
        """Tells every subscription of `series`; False if there is none."""
        stream = self._streams.get(series, ())
        for subscription in stream:
            subscription.deliver(message)
        return bool(stream)
