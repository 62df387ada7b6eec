"""The contracts between nodes. `tests/contract` holds every kind to them.

What is told here is a hint, and a lease is one too: the database has the truth, and its fences keep
whoever has lost a lease without knowing from doing harm.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple, TypeAlias

# How long a lease lasts unless it is renewed.
LEASE_MS = 3_000

Heard: TypeAlias = Callable[[bytes], None]


class BusAway(Exception):
    """Nobody can be told or asked at present; it comes back by itself."""


class MessageBus(ABC):
    """Tells other nodes, at once, of what is in the database by then.

    Those of one publisher on one channel come in order. A message may be lost, or come twice.
    """

    @abstractmethod
    def publish(self, channel: str, message: bytes) -> None:
        """Tells everybody who is subscribed to `channel`, this node included. Never blocks or fails."""

    @abstractmethod
    def subscribe(self, channel: str, heard: Heard) -> None:
        """From some moment soon `heard` is called, in the loop, with every message on `channel`.

        A channel has one subscriber in a node: the last one.
        """

    @abstractmethod
    def unsubscribe(self, channel: str, heard: Heard) -> None:
        """When it returns, `heard` is not called any more; who has subscribed since goes on."""


class Held(NamedTuple):
    """Who has a lease, and what they say to those who would like to have it."""

    node: str
    note: bytes


class Leases(ABC):
    """Which node leads what. Each is held by one node at a time, for LEASE_MS after its last claim."""

    node: str
    """The name of this node, different from any other's."""

    @abstractmethod
    async def claim(self, wanted: Mapping[str, bytes]) -> dict[str, Held]:
        """Takes those that nobody has and renews this node's own, with a note on each.

        Says who has each of them now. Raises BusAway, also where nothing is wanted; any of it may have
        been done then.
        """

    @abstractmethod
    async def release(self, names: Iterable[str]) -> None:
        """Gives back those of `names` that are this node's own. Raises BusAway."""
