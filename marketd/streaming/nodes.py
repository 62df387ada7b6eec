"""This node among those that share a store: what each leads, agreed upon by leases.

Once a second every node claims what its clients follow. Who has the lease leads; the others learn with
the same question where the leader stands, so that a message that was lost is noticed within a second.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from enum import StrEnum
from typing import Protocol

from marketd.bus import BusAway, Leases
from marketd.bus.base import LEASE_MS
from marketd.metrics import Metrics
from marketd.storage import Storage

log = logging.getLogger(__name__)

_ROUND_S = 1.0
_LEASE_S = LEASE_MS / 1000
# A store that takes no writes for longer is one that this node is cut off from, or that is away for all.
_GRACE_S = 1.0


class Part(StrEnum):
    """What a node does for a series, or for the trades of an instrument."""

    WAITING = "waiting"  # nothing, until it is known who leads
    LEADING = "leading"
    FOLLOWING = "following"
    ALONE = "alone"  # what it would do if there were no other nodes, while there is no way to them


class Member(Protocol):
    """A series, or an instrument's trades, that clients of this node follow."""

    @property
    def name(self) -> str:
        """What every node calls it."""

    def note(self) -> bytes:
        """What those who do not lead it are to know when this node does."""

    def assign(self, part: Part, note: bytes) -> None:
        """Takes a part from now on. Of whoever leads it is told the note."""


class Nodes:
    """Assigns the parts, while `run` runs. `now_s` is any clock that never goes back."""

    def __init__(
        self,
        leases: Leases,
        storage: Storage,
        metrics: Metrics,
        *,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self.fault = ""
        """Why this node is alone at present, in a sentence; empty while it is not."""
        self._leases = leases
        self._storage = storage
        self._metrics = metrics
        self._now_s = now_s
        self._members: dict[str, Member] = {}
        self._left: set[str] = set()
        self._is_wanted = asyncio.Event()
        # When the last claim was made that was answered, and since when the store takes no writes.
        self._claimed_s: float | None = None
        self._faulty_s: float | None = None

    def join(self, member: Member) -> None:
        """From now on `member` is assigned a part, at first within a moment."""
        self._members[member.name] = member
        self._left.discard(member.name)
        self._is_wanted.set()

    def leave(self, member: Member) -> None:
        """Ends that. What it led another node may lead at once.

        It may have ended slowly: another of its name that has joined since stays.
        """
        if self._members.get(member.name) is member:
            del self._members[member.name]
            self._left.add(member.name)
            self._is_wanted.set()

    async def run(self) -> None:
        """Holds a round every second, and whenever a member joins or leaves."""
        while True:
            self._is_wanted.clear()
            await self.round()
            try:
                async with asyncio.timeout(_ROUND_S):
                    await self._is_wanted.wait()
            except TimeoutError:
                continue

    async def close(self) -> None:
        """Gives back what is led, so that others need not wait for it to expire."""
        try:
            await self._leases.release([*self._left, *self._members])
        except BusAway:
            # It expires.
            return

    async def round(self) -> None:
        """Claims what is followed here, and assigns the parts."""
        begun_s = self._now_s()
        left, self._left = self._left, set()
        # Who cannot write does not lead, so that somebody else can.
        wanted = {} if self._is_faulty(begun_s) else self._members.copy()
        try:
            await self._leases.release(left | (self._members.keys() - wanted.keys()))
            held = await self._leases.claim({name: one.note() for name, one in wanted.items()})
        except BusAway as error:
            if self._claimed_s is None or begun_s - self._claimed_s > _LEASE_S:
                self._go_alone(str(error))
            return
        self._claimed_s = begun_s
        self._come_back()
        for name, member in self._members.items():
            if name in held:
                node, note = held[name]
                leads = node == self._leases.node
                member.assign(Part.LEADING if leads else Part.FOLLOWING, note)
            elif name not in wanted:
                member.assign(Part.WAITING, b"")

    def _is_faulty(self, now_s: float) -> bool:
        """True if the store has taken no writes for more than a moment."""
        if not self._storage.fault:
            self._faulty_s = None
            return False
        self._faulty_s = now_s if self._faulty_s is None else self._faulty_s
        return now_s - self._faulty_s > _GRACE_S

    def _go_alone(self, reason: str) -> None:
        if not self.fault:
            log.warning("bus away reason=%s; all is followed by this node itself", reason)
        self.fault = "Redis is away: this node follows every series by itself."
        self._metrics.bus_up.set(0)
        for member in self._members.values():
            member.assign(Part.ALONE, b"")

    def _come_back(self) -> None:
        if self.fault:
            log.info("bus back; each series is followed by one node again")
        self.fault = ""
        self._metrics.bus_up.set(1)
