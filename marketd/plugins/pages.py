"""What of a provider's answer is taken for bars, and what that proves.

Nothing that cannot be right is taken, and where something was refused nothing is proven. That a short
page is all there is has only the plugin's word for it, so the word is tested: see `_Word`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Any, NamedTuple

from marketd.domain.bar import Bar, all_valid, bar_fault, open_time, same_bar
from marketd.domain.errors import ProviderFailed
from marketd.domain.timeframe import Timeframe
from marketd.domain.timerange import TimeRange, merge
from marketd.metrics import Metrics

log = logging.getLogger(__name__)

_REFUSALS_LOGGED = 1_000
# Pages above this many bars are validated in another thread.
_INLINE = 2_000
# So many short pages of the largest size must have been all there was before the size is believed.
_CONVINCED = 3
_QUESTIONS_KEPT = 1_000


class Question(NamedTuple):
    """What a plugin was asked for: the first `limit` bars of `span`.

    `now_ms` is the provider's present when it was asked, and `settled_ms` the time up to which the
    absence of a bar meant something then.
    """

    symbol: str
    timeframe: Timeframe
    span: TimeRange
    limit: int
    now_ms: int
    settled_ms: int


class Fetched(NamedTuple):
    """One page: valid bars, ascending, that are all there is up to `end_ms`, but for `refused`.

    Where the provider keeps nothing older, `begins_ms` says since when it has bars. Of what is `untold`
    somebody may still say what there is.
    """

    bars: list[Bar]
    end_ms: int
    refused: list[TimeRange]
    begins_ms: int | None = None
    untold: Sequence[TimeRange] = ()


class PageReader:
    """Reads the answers of one provider."""

    def __init__(self, provider: str, metrics: Metrics) -> None:
        self._provider = provider
        self._metrics = metrics
        self._refused: set[tuple[str, Timeframe, str]] = set()
        self._word = _Word()

    async def read(self, rows: object, asked: Question) -> Fetched:
        """The page that `rows` are; ProviderFailed if they cannot be read as one."""
        if not isinstance(rows, Sequence) or isinstance(rows, str | bytes):
            self.refuse("shape", asked.symbol, asked.timeframe, rows)
            raise self._garbage()
        validate = asyncio.to_thread(self._validated, rows, asked) if len(rows) > _INLINE else None
        bars, doubtful, end_ms = await validate if validate else self._validated(rows, asked)
        short = len(rows) < asked.limit
        if self._word.is_broken_by(asked, bars):
            self._metrics.pages_cut_short.labels(self._provider).inc()
            log.warning(
                "page cut short provider=%s symbol=%r timeframe=%s; the plugin's page_limit is not the "
                "provider's, and from now on every page that may be cut is asked on from its end",
                self._provider,
                asked.symbol,
                asked.timeframe,
            )
        if short and not self._word.is_doubted(asked, len(rows), end_ms):
            end_ms = asked.span.end_ms
        if end_ms <= asked.span.start_ms:
            raise ProviderFailed(
                f"{self._provider} sent a full page without one bar asked for.", transient=False
            )
        refused = [piece for piece in merge(doubtful) if not piece.clip(asked.span).is_empty]
        return Fetched(bars, end_ms, refused)

    def refuse(self, reason: str, symbol: str, timeframe: Timeframe, row: object) -> None:
        """Counts what is not taken, and logs the first of its kind."""
        self._metrics.bars_refused.labels(self._provider, reason).inc()
        kind = (symbol, timeframe, reason)
        if kind in self._refused or len(self._refused) >= _REFUSALS_LOGGED:
            return
        self._refused.add(kind)
        log.warning(
            "bar refused provider=%s symbol=%r timeframe=%s reason=%s bar=%.100r; "
            "more like it are only counted",
            self._provider,
            symbol,
            timeframe,
            reason,
            row,
        )

    def _validated(self, rows: Sequence[Any], asked: Question) -> _Valid:
        _, timeframe, span, _, now_ms, _ = asked
        if all_valid(rows, timeframe) and (
            not rows or (span.start_ms <= rows[0][0] and rows[-1][0] < min(span.end_ms, now_ms + 1))
        ):
            return _Valid(list(rows), [], timeframe.end(rows[-1][0]) if rows else span.start_ms)
        bars: dict[int, Bar] = {}
        doubtful: dict[int, TimeRange] = {}
        # Some providers include the end, or the bar that the start lies in: no other may come along.
        near = TimeRange(timeframe.shift(timeframe.floor(span.start_ms), -1), span.end_ms + 1)
        strayed = False
        end_ms = span.start_ms
        for row in rows:
            fault = bar_fault(row, timeframe)
            if fault in ("shape", "time"):
                self.refuse(fault, asked.symbol, timeframe, row)
                raise self._garbage()
            t_ms = row[0]
            if fault is None and not span.start_ms <= t_ms < span.end_ms:
                fault = "outside"
            if fault is None and t_ms > now_ms:
                # Nobody asked for it, so nothing is missing without it.
                self.refuse("future", asked.symbol, timeframe, row)
                continue
            if fault is None and t_ms in bars and not same_bar(row, bars[t_ms]):
                fault = "conflict"
            if fault is not None:
                self.refuse(fault, asked.symbol, timeframe, row)
                doubtful[t_ms] = TimeRange(timeframe.floor(t_ms), timeframe.end(t_ms))
                strayed = strayed or not near.start_ms <= t_ms < near.end_ms
                continue
            bars[t_ms] = row
            end_ms = max(end_ms, timeframe.end(t_ms))
        # Of two bars for one interval that differ, neither is more right than the other.
        taken = sorted((bars[t_ms] for t_ms in bars if t_ms not in doubtful), key=open_time)
        unproven = list(doubtful.values())
        if strayed:
            # It answered another question: what is not between its bars, nobody was asked for.
            first_ms, last_ms = (taken[0][0], end_ms) if taken else (span.end_ms, span.end_ms)
            unproven += [TimeRange(span.start_ms, first_ms), TimeRange(last_ms, span.end_ms)]
        return _Valid(taken, unproven, end_ms)

    def _garbage(self) -> ProviderFailed:
        return ProviderFailed(
            f"{self._provider} answered with something that is not bars.", transient=False
        )


class _Valid(NamedTuple):
    """Valid bars, ascending, the intervals of refused ones, and the end of the last valid one."""

    bars: list[Bar]
    doubtful: list[TimeRange]
    end_ms: int


class _Word:
    """Whether a short page is all there is, as its plugin says, or was cut by a limit unheard of.

    One page cannot tell. But a page that is larger than every short page before, and ends early, may
    be cut: it is taken to prove no more than it holds, so that the reader asks on from its end. If
    nothing comes, then no limit is below its size; if something does, one is at its size.
    """

    def __init__(self) -> None:
        self._believed = 0  # the largest size that was all there was, and how often that size was
        self._times = 0
        self._cut: int | None = None
        self._questions: dict[tuple[str, Timeframe], _Doubt] = {}

    def is_doubted(self, asked: Question, size: int, end_ms: int) -> bool:
        """True if a short page of `size` rows that ends at `end_ms` may have been cut there."""
        until_ms = min(asked.span.end_ms, asked.settled_ms)
        if not size or not asked.span.start_ms < end_ms < until_ms:
            return False
        if self._cut is not None and size >= self._cut:
            return True
        if size < self._believed or (size == self._believed and self._times >= _CONVINCED):
            return False
        if len(self._questions) >= _QUESTIONS_KEPT:
            del self._questions[next(iter(self._questions))]
        self._questions[asked.symbol, asked.timeframe] = _Doubt(size, TimeRange(end_ms, until_ms))
        return True

    def is_broken_by(self, asked: Question, bars: Sequence[Bar]) -> bool:
        """True if `bars`, asked for because of a doubt, show that the page before was cut."""
        doubt = self._questions.pop((asked.symbol, asked.timeframe), None)
        if doubt is None or asked.span.start_ms != doubt.rest.start_ms:
            return False
        # What has come into being since is no sign.
        if any(bar[0] < doubt.rest.end_ms for bar in bars):
            first = self._cut is None
            self._cut = min(doubt.size, self._cut or doubt.size)
            return first
        if asked.span.end_ms >= doubt.rest.end_ms:
            self._times = self._times + 1 if doubt.size == self._believed else 1
            self._believed = max(self._believed, doubt.size)
        return False


class _Doubt(NamedTuple):
    """The size of a page that may have been cut, and where the rest of it would be."""

    size: int
    rest: TimeRange
