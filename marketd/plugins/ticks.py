"""What of a provider's answer is taken for trades, and what that proves."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Any, NamedTuple

from marketd.domain.bar import Tick, open_time, tick_fault
from marketd.domain.errors import ProviderFailed
from marketd.domain.timerange import TimeRange, merge, subtract
from marketd.metrics import Metrics

log = logging.getLogger(__name__)

_REFUSALS_LOGGED = 1_000
# More trades at once than this are validated in another thread.
_INLINE = 2_000


class FetchedTicks(NamedTuple):
    """One page: valid trades, ascending, that are all there is up to `end_ms`, but for `refused`.

    Of what is `untold`, a part of that, nobody has said anything yet.
    """

    ticks: list[Tick]
    end_ms: int
    refused: list[TimeRange]
    untold: Sequence[TimeRange] = ()


class ToldTicks(NamedTuple):
    """What a stream has just said: valid trades, ascending. Not `is_whole` if others were refused.

    Without a trade it is a sign of life.
    """

    ticks: list[Tick]
    is_whole: bool


class TickReader:
    """Reads the trades of one provider."""

    def __init__(self, provider: str, metrics: Metrics) -> None:
        self._provider = provider
        self._metrics = metrics
        self._refused: set[tuple[str, str]] = set()

    async def told(self, rows: object, symbol: str, now_ms: int) -> ToldTicks:
        """What a stream has said, without what cannot be right."""
        read = await self._valid(rows, symbol, now_ms)
        ticks = [tick for tick in read if tick is not None]
        return ToldTicks(ticks, len(ticks) == len(read))

    async def page(
        self, rows: object, symbol: str, span: TimeRange, limit: int, now_ms: int
    ) -> FetchedTicks:
        """The page of `span` that `rows` are; ProviderFailed if they cannot be read as one.

        A refused trade leaves its page unproven. Trades from elsewhere show that another question was
        answered: then only what lies between those asked for is proven.
        """
        read = await self._valid(rows, symbol, now_ms)
        valid = [tick for tick in read if tick is not None]
        ticks = [tick for tick in valid if span.start_ms <= tick[0] < span.end_ms]
        if len(read) < limit:
            end_ms = span.end_ms
        elif not ticks:
            raise ProviderFailed(
                f"{self._provider} sent a full page without one trade asked for.", transient=False
            )
        else:
            # There may be more in the last millisecond. One that fills a page cannot be had whole.
            end_ms = max(ticks[-1][0], span.start_ms + 1)
        told = TimeRange(span.start_ms, end_ms)
        refused = [TimeRange(span.start_ms, end_ms)] if len(valid) < len(read) else []
        if len(ticks) < len(valid):
            known = [TimeRange(ticks[0][0] + 1, ticks[-1][0])] if ticks else []
            refused += subtract(told, merge(known))
        if len(read) >= limit and ticks[-1][0] == span.start_ms:
            refused.append(told)
        return FetchedTicks(ticks, end_ms, merge(refused))

    async def _valid(self, rows: object, symbol: str, now_ms: int) -> list[Tick | None]:
        """The trades that `rows` are, ascending, and None for each that is refused."""
        if not isinstance(rows, Sequence) or isinstance(rows, str | bytes):
            self._refuse("shape", symbol, rows)
            raise ProviderFailed(f"{self._provider} sent something else than trades.", transient=False)
        if len(rows) > _INLINE:
            ticks, faults = await asyncio.to_thread(_sorted_out, rows, now_ms)
        else:
            ticks, faults = _sorted_out(rows, now_ms)
        for fault, row in faults:
            self._refuse(fault, symbol, row)
        return [*ticks, *[None] * len(faults)]

    def _refuse(self, reason: str, symbol: str, row: object) -> None:
        """Counts what is not taken, and logs the first of its kind."""
        self._metrics.ticks_refused.labels(self._provider, reason).inc()
        kind = (symbol, reason)
        if kind in self._refused or len(self._refused) >= _REFUSALS_LOGGED:
            return
        self._refused.add(kind)
        log.warning(
            "trade refused provider=%s symbol=%r reason=%s trade=%.100r; more like it are only counted",
            self._provider,
            symbol,
            reason,
            row,
        )


def _sorted_out(rows: Sequence[Any], now_ms: int) -> tuple[list[Tick], list[tuple[str, Any]]]:
    """Valid trades, ascending, and the others, each with what is wrong with it."""
    ticks: list[Tick] = []
    faults: list[tuple[str, Any]] = []
    for row in rows:
        fault = tick_fault(row, now_ms)
        if fault is None:
            t_ms, price, size, side, trade_id = row
            ticks.append((t_ms, float(price), float(size), side, trade_id))
        else:
            faults.append((fault, row))
    ticks.sort(key=open_time)
    return ticks, faults
