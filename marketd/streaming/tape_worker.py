"""Follows the trades of one instrument at its provider: the one upstream, however many clients.

What the stream says is stored; the store's new trades are what is published, whoever brought them. A
connection proves the time between its first trade and its last. What lies between two connections is
asked of the provider's history, if it has one, and is told as a gap if not.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from contextlib import aclosing
from typing import NamedTuple, Protocol

from marketd.domain.bar import Bar, Tick, open_time
from marketd.domain.coverage import Covered, Gap, Reason
from marketd.domain.errors import FeedStalled, MarketdError, StorageFailed, Superseded
from marketd.domain.timerange import MIN_MS, TimeRange
from marketd.plugins.feed import TickFeed
from marketd.streaming.retry import Backoff, first, pause
from marketd.streaming.tape_front import TapeFront

log = logging.getLogger(__name__)

# How long what one source has just told may be on its way from another.
_GRACE_MS = 1_000
# What may wait of a stream, in batches, while trades are stored or the store is away.
_INBOX = 1_000
_STORE_PAUSE_S = 1.0
# Signs of life prove that there was no trade, stored not more often than this.
_SIGN_MS = 1_000


class Tape(Protocol):
    """What the worker needs of the trades that are stored."""

    async def keep(
        self, feed: TickFeed, ticks: Sequence[Tick], covered: Sequence[Covered], *, is_live: bool
    ) -> None:
        """Stores trades, ascending, with what they prove; those that are new are told."""

    async def fill(self, feed: TickFeed, span: TimeRange) -> list[Gap]:
        """Fetches what of `span` is not proven, tells what is new, and gives what cannot be had."""


class BarsBeside(Protocol):
    """What the worker needs of bars, to find out whether a stream without a history is mute."""

    async def bars_since(self, feed: TickFeed, since_ms: int) -> Sequence[Bar] | None:
        """The finest bars from `since_ms` to the present; None if the provider has no bars."""

    async def quiet_until(self, feed: TickFeed, since_ms: int, last: Tick) -> int:
        """Up to when these show that there was no trade from `since_ms` on; 0 if they do not.

        `last` is the last trade before.
        """


class _Heard(NamedTuple):
    """What a stream has said: trades, ascending, or at `sign_ms` that there are no others before.

    Not `is_whole` if trades among them were refused.
    """

    ticks: list[Tick]
    sign_ms: int
    is_whole: bool

    def plus(self, later: _Heard) -> _Heard:
        return _Heard(
            sorted([*self.ticks, *later.ticks], key=open_time),
            max(self.sign_ms, later.sign_ms),
            self.is_whole and later.is_whole,
        )


class TapeWorker:
    """Moves the front of one instrument on. `told_ms` says the time of the newest published trade."""

    def __init__(
        self,
        feed: TickFeed,
        front: TapeFront,
        *,
        tape: Tape,
        bars: BarsBeside,
        told_ms: Callable[[], int],
        stall_ms: int,
    ) -> None:
        self._feed = feed
        self._front = front
        self._tape = tape
        self._bars = bars
        self._told_ms = told_ms
        self._stall_ms = stall_ms
        # How long a trade may be on its way.
        self._lag_ms = feed.provider.plugin.settle_ms + _GRACE_MS
        # Of this connection: up to where it proves all (0 before its first trade), the trades of its
        # last millisecond, and when it spoke last, in real time however fast the market runs.
        self._proven_ms = 0
        self._edge: list[Tick] = []
        self._clock = feed.provider.plugin.context.clock
        self._heard_ms = 0
        self._has_missed = asyncio.Event()

    async def follow(self) -> None:
        """Follows until cancelled; when the provider fails, says so, waits and begins again.

        Raises Superseded once another node leads these trades with a later fence than the feed's.
        """
        with self._feed.provider.lease():
            await self._keep_following()

    async def _keep_following(self) -> None:
        backoff = Backoff()
        while True:
            try:
                await self._follow()
            except Superseded:
                raise
            except MarketdError as error:
                self._front.tell("stale" if isinstance(error, FeedStalled) else "down", error.message)
            await backoff.pause()

    async def _follow(self) -> None:
        """One connection's life: raises when it ends."""
        inbox: asyncio.Queue[_Heard] = asyncio.Queue(_INBOX)
        self._proven_ms = 0
        self._edge = []
        self._heard_ms = self._clock.now_ms()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._listen(inbox))
                group.create_task(self._watch_silence())
                if self._feed.provider.has_tick_history:
                    group.create_task(self._make_up())
                while True:
                    heard = await inbox.get()
                    while not inbox.empty():
                        # All that waits goes into one transaction.
                        heard = heard.plus(inbox.get_nowait())
                    await self._handle(heard, inbox)
        except* MarketdError as failures:
            raise first(failures) from None

    async def _listen(self, inbox: asyncio.Queue[_Heard]) -> None:
        provider = self._feed.provider
        async with aclosing(provider.stream_ticks(self._feed.instrument.symbol)) as batches:
            async for ticks, is_whole in batches:
                self._heard_ms = self._clock.now_ms()
                is_sign = is_whole and not ticks
                await inbox.put(_Heard(ticks, provider.now_ms() if is_sign else 0, is_whole))

    async def _handle(self, heard: _Heard, inbox: asyncio.Queue[_Heard]) -> None:
        """Takes what has come. While the store is away it waits here, and what comes later behind it."""
        while True:
            try:
                await self._take(heard)
            except StorageFailed as error:
                self._front.tell("down", error.message)
                if inbox.full():
                    raise
                await pause(_STORE_PAUSE_S)
            else:
                self._front.tell("live", "")
                return

    async def _take(self, heard: _Heard) -> None:
        """Stores what the stream says, and what that proves."""
        ticks = heard.ticks
        last_ms = ticks[-1][0] if ticks else 0
        end_ms = max(last_ms, heard.sign_ms - self._lag_ms)
        if not heard.is_whole:
            # What was refused may lie anywhere among what was told with it.
            self._proven_ms = 0
        begin_ms = self._proven_ms or _begin(heard)
        if not begin_ms or (not ticks and 0 <= end_ms - self._proven_ms < _SIGN_MS):
            return
        covered = [Covered(begin_ms, end_ms, Reason.DATA)] if begin_ms < end_ms else []
        front = self._front
        missed = TimeRange(front.known_ms, begin_ms)
        is_gap = not self._feed.provider.has_tick_history and not self._proven_ms and not missed.is_empty
        if is_gap:
            covered.insert(0, Covered(*missed, Reason.UNRECOVERABLE))
        new = front.unheard(ticks)
        # Trades that are alike are told apart by their place in a whole millisecond.
        edge = [tick for tick in self._edge if new and tick[0] == new[0][0]]
        await self._tape.keep(self._feed, [*edge, *new], covered, is_live=True)
        if is_gap:
            front.pass_over(Gap(*missed, Reason.UNRECOVERABLE))
        elif not self._proven_ms and not missed.is_empty:
            self._is_missed(begin_ms)
        front.remember(new)
        if ticks and (not self._edge or last_ms >= self._edge[-1][0]):
            self._edge = [tick for tick in [*edge, *new] if tick[0] == last_ms] or self._edge
        self._proven_ms = max(begin_ms, end_ms)
        front.advance(self._proven_ms)

    async def _make_up(self) -> None:
        """Fetches what was missed, as soon as it can be had; the stream goes on meanwhile."""
        clock, front = self._feed.provider.plugin.clock, self._front
        begun_ms = clock.now_ms()
        if front.missed is not None or front.known_ms + _GRACE_MS < begun_ms:
            # At once, what there was while nobody listened; what came since, with the first trade.
            self._is_missed(begun_ms)
        backoff = Backoff()
        while True:
            await self._has_missed.wait()
            missed = front.missed
            assert missed is not None  # noqa: S101 - it is set before the event
            settled_ms = clock.now_ms() - self._lag_ms
            if settled_ms < min(missed.end_ms, missed.start_ms + _GRACE_MS):
                await clock.sleep_until(missed.end_ms + self._lag_ms)
                continue
            # What lies further back is not kept waiting for the last of it.
            piece = missed.clip(TimeRange(MIN_MS, settled_ms))
            try:
                gaps = await self._tape.fill(self._feed, piece)
            except Superseded:
                raise
            except MarketdError as error:
                log.info(
                    "missed trades not fetched tape=%s reason=%s", self._feed.instrument, error.message
                )
                await backoff.pause()
                continue
            for gap in gaps:
                front.pass_over(gap)
            if not front.makes_up(piece.end_ms):
                self._has_missed.clear()
            backoff = Backoff()

    def _is_missed(self, end_ms: int) -> None:
        self._front.missed = TimeRange(self._front.whole_ms, end_ms)
        self._has_missed.set()

    async def _watch_silence(self) -> None:
        """Raises FeedStalled once trades have gone on while the stream said nothing.

        Where they have not, there is nothing wrong with a connection that was made anew.
        """
        clock = self._clock
        while True:
            heard_ms = self._heard_ms
            await clock.sleep_until(heard_ms + self._stall_ms)
            if self._heard_ms != heard_ms:
                continue
            try:
                went_on = await self._has_gone_on()
            except Superseded:
                raise
            except MarketdError:
                # Whether the stream is mute cannot be told while the provider does not answer.
                went_on = False
            else:
                if not went_on and self._front.health.state == "down":
                    self._front.tell("live", "")
            if self._heard_ms == heard_ms:
                if went_on:
                    name = self._feed.provider.name
                    raise FeedStalled(f"The stream of {name} was mute; it is begun anew.")
                self._heard_ms = clock.now_ms()

    async def _has_gone_on(self) -> bool:
        """Whether there were trades, by the provider's history, that the stream has not told."""
        provider, clock = self._feed.provider, self._clock
        if provider.has_tick_history:
            told_ms = self._told_ms()
            settled_ms = provider.now_ms() - provider.plugin.settle_ms
            span = TimeRange(self._proven_ms or self._front.known_ms, settled_ms)
            if not span.is_empty:
                gaps = await self._tape.fill(self._feed, span)
                for gap in gaps:
                    self._front.pass_over(gap)
                self._front.advance(settled_ms)
                # The quiet time is proven; the next trade proves from there on.
                self._proven_ms = max(self._proven_ms, settled_ms)
            await clock.sleep_until(clock.now_ms() + _GRACE_MS)
            return self._told_ms() > told_ms
        since_ms = self._told_ms()
        before = await self._bars.bars_since(self._feed, since_ms)
        if before is None:
            # Nobody else can be asked whether the market is quiet.
            return True
        await clock.sleep_until(clock.now_ms() + max(_GRACE_MS, self._stall_ms // 2))
        after = await self._bars.bars_since(self._feed, since_ms)
        # What bars have just learnt may be on its way.
        await clock.sleep_until(clock.now_ms() + _GRACE_MS)
        if before == after:
            await self._prove_quiet()
        return before != after

    async def _prove_quiet(self) -> None:
        """Takes the bars at their word if they show that there was no trade after the last one."""
        if not (self._proven_ms and self._edge):
            return
        quiet_ms = await self._bars.quiet_until(self._feed, self._proven_ms, self._edge[-1])
        if quiet_ms > self._proven_ms:
            proof = Covered(self._proven_ms, quiet_ms, Reason.DATA)
            await self._tape.keep(self._feed, [], [proof], is_live=True)
            self._proven_ms = max(self._proven_ms, quiet_ms)
            self._front.advance(self._proven_ms)


def _begin(heard: _Heard) -> int:
    """From when on a connection tells all, by what it has said first; 0 if that cannot be known yet."""
    if heard.is_whole and heard.ticks:
        return heard.ticks[0][0] + 1
    return max(heard.sign_ms, heard.ticks[-1][0] + 1 if heard.ticks else 0)
