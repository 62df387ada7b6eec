"""Nodes within one process: who embeds several daemons, and the tests, need no Redis."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping

from marketd.bus.base import LEASE_MS, Heard, Held, Leases, MessageBus


class LocalHub:
    """What the nodes of one process have in common. `now_s` is any clock that never goes back."""

    def __init__(self, now_s: Callable[[], float]) -> None:
        self.now_s = now_s
        self.buses: set[LocalBus] = set()
        self.held: dict[str, tuple[Held, float]] = {}


class LocalBus(MessageBus):
    """One node's way to all through a hub."""

    def __init__(self, hub: LocalHub) -> None:
        self._hub = hub
        self._heard: dict[str, Heard] = {}
        hub.buses.add(self)

    def publish(self, channel: str, message: bytes) -> None:
        loop = asyncio.get_running_loop()
        for bus in self._hub.buses:
            loop.call_soon(bus.hear, channel, message)

    def subscribe(self, channel: str, heard: Heard) -> None:
        self._heard[channel] = heard

    def unsubscribe(self, channel: str, heard: Heard) -> None:
        if self._heard.get(channel) == heard:
            del self._heard[channel]

    def hear(self, channel: str, message: bytes) -> None:
        """Hands on what was published, if this node is subscribed."""
        heard = self._heard.get(channel)
        if heard is not None:
            heard(message)


class LocalLeases(Leases):
    """One node's leases in a hub."""

    def __init__(self, hub: LocalHub, node: str) -> None:
        self.node = node
        self._hub = hub

    async def claim(self, wanted: Mapping[str, bytes]) -> dict[str, Held]:
        return {name: self._claim(name, note) for name, note in wanted.items()}

    async def release(self, names: Iterable[str]) -> None:
        for name in names:
            if name in self._hub.held and self._hub.held[name][0].node == self.node:
                del self._hub.held[name]

    def _claim(self, name: str, note: bytes) -> Held:
        now_s = self._hub.now_s()
        if name in self._hub.held:
            held, until_s = self._hub.held[name]
            if held.node != self.node and now_s < until_s:
                return held
        held = Held(self.node, note)
        self._hub.held[name] = held, now_s + LEASE_MS / 1000
        return held
