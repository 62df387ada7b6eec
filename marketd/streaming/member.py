"""What a node follows among others: it leads, follows whoever does, or is alone with it.

Whatever its part is, it goes on from where the one before has stopped: what this node's clients were
told is kept in one place, the front. A part that ends is cancelled; what it had stored and not yet
told, the next one reads.
"""

from __future__ import annotations

import asyncio
import logging
import math
from abc import ABC, abstractmethod
from collections.abc import Coroutine
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from marketd.bus import MessageBus
from marketd.clock import Clock
from marketd.domain.errors import MarketdError, StorageFailed, Superseded
from marketd.domain.instrument import Instrument, Series
from marketd.encoding import to_json
from marketd.metrics import Metrics
from marketd.storage import Storage
from marketd.streaming.nodes import Nodes, Part
from marketd.supervisor import cancel_all

log = logging.getLogger(__name__)

_PAUSE_S = 1.0
# What may wait of a leader's words; each says where it stands, so that the next makes up for a lost one.
_INBOX = 1_000


class Others(NamedTuple):
    """This node's way to the others. `clock` is that by which they tell how late a word is."""

    nodes: Nodes
    bus: MessageBus
    storage: Storage
    clock: Clock
    metrics: Metrics


class Word(Protocol):
    """What a leader tells the others."""

    @property
    def fence(self) -> int: ...

    def pack(self) -> bytes:
        """As bytes, for the bus."""


class HasHealth(Protocol):
    """A front, of which clients are told how its feed is."""

    def tell(self, state: str, message: str) -> None: ...


_Word = TypeVar("_Word", bound=Word)


class Member(ABC, Generic[_Word]):
    """A series, or the trades of an instrument, that clients of this node follow; see nodes.Member."""

    front: HasHealth

    def __init__(self, what: Series | Instrument, others: Others) -> None:
        self.name = to_json(_names(what)).decode()
        self._what = what
        self._nodes, self._bus, self._storage, self._clock, self._metrics = others
        self._part = Part.WAITING
        self._is_assigned = asyncio.Event()
        self._inbox: asyncio.Queue[_Word] = asyncio.Queue(_INBOX)
        # The fence of this node, or the latest of which it has heard.
        self._fence = 0
        self._leads = False

    @abstractmethod
    async def _work(self, fence: int | None) -> None:
        """Follows at the provider, with the fence of a leader, until cancelled; may raise Superseded."""

    @abstractmethod
    async def _begin_to_lead(self) -> None:
        """Called with a new fence, before `_work`; may raise StorageFailed."""

    @abstractmethod
    async def _take(self, word: _Word) -> None:
        """Tells what the leader says. What fails with MarketdError is tried again with the next word."""

    @abstractmethod
    def _word(self) -> _Word:
        """Where this node stands."""

    @abstractmethod
    def _unpack(self, data: bytes) -> _Word | None:
        """What was packed; None if it is of a marketd that says it otherwise."""

    async def run(self) -> None:
        """Follows until cancelled."""
        self._nodes.join(self)
        try:
            await self._run()
        finally:
            self._nodes.leave(self)

    async def _run(self) -> None:
        while True:
            await self._play()

    def note(self) -> bytes:
        """See nodes.Member."""
        return self._word().pack()

    def assign(self, part: Part, note: bytes) -> None:
        """See nodes.Member."""
        if part is not self._part:
            self._part = part
            self._is_assigned.set()
        if part is Part.FOLLOWING:
            self._hear(note)
        if part is Part.WAITING and self._storage.fault:
            # At once: a part that leads may wait for a store that says nothing, before it ends.
            self.front.tell("down", self._storage.fault)

    async def _play(self) -> None:
        """One part, until there is another."""
        self._is_assigned.clear()
        playing = asyncio.create_task(self._played(), name=f"{self._part} {self._what}")
        tasks = {playing, asyncio.create_task(self._assigned())}
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            tasks -= done
        finally:
            await cancel_all(tasks)
        if playing in done:
            playing.result()

    def _played(self) -> Coroutine[Any, Any, None]:
        match self._part:
            case Part.LEADING:
                return self._lead()
            case Part.FOLLOWING:
                return self._follow()
            case Part.ALONE:
                return self._work(None)
            case Part.WAITING:
                # Nobody is known to lead.
                return asyncio.sleep(math.inf)

    async def _assigned(self) -> None:
        await self._is_assigned.wait()

    async def _lead(self) -> None:
        """Follows at the provider for all nodes; returns when another has begun to."""
        try:
            self._fence = await self._storage.lead(self._what)
            await self._begin_to_lead()
        except StorageFailed as error:
            self.front.tell("down", error.message)
            await asyncio.sleep(_PAUSE_S)
            return
        self._metrics.stream_led.inc()
        log.info("leading what=%s fence=%d", self._what, self._fence)
        self._metrics.stream_leading.inc()
        self._leads = True
        try:
            await self._work(self._fence)
        except Superseded:
            # Whether the lease is still this node's own, the next round tells.
            self._part = Part.WAITING
        finally:
            self._metrics.stream_leading.dec()
            self._leads = False
            log.info("not leading any more what=%s fence=%d", self._what, self._fence)

    async def _follow(self) -> None:
        """Tells what the leader says, and reads what it has said in vain."""
        self._bus.subscribe(self.name, self._hear)
        try:
            while True:
                word = await self._inbox.get()
                # One who led before may not know that another does.
                if word.fence >= self._fence:
                    self._fence = word.fence
                    await self._try(word)
        finally:
            self._bus.unsubscribe(self.name, self._hear)

    async def _try(self, word: _Word) -> None:
        try:
            await self._take(word)
        except MarketdError as error:
            # The next word tries again, at the latest that of the next round.
            self.front.tell("down", error.message)

    def _hear(self, data: bytes) -> None:
        word = self._unpack(data)
        if word is not None and not self._inbox.full():
            self._inbox.put_nowait(word)

    def _publish(self, word: _Word) -> None:
        self._bus.publish(self.name, word.pack())


def _names(what: Series | Instrument) -> list[str]:
    if isinstance(what, Instrument):
        return [what.market, what.provider, what.symbol]
    return [*_names(what.instrument), str(what.timeframe), what.variant]
