"""What a provider plugin is: one class with a small mandatory core, and capabilities beside it.

The core of marketd owns retries, time limits, validation, storage and reconnects. A plugin translates
between a vendor and the words of `marketd.domain`, raises `ProviderFailed` (or one of its children)
when the vendor fails, and does nothing else.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple

from marshmallow import Schema

from marketd.clock import Clock
from marketd.domain.bar import Bar, Tick
from marketd.domain.instrument import SymbolInfo
from marketd.domain.rate_limit import RateLimit
from marketd.domain.timeframe import Timeframe
from marketd.domain.timerange import TimeRange


class NoFields(Schema):
    """The schema of a plugin that takes no settings, no credentials or no parameters."""


@dataclass(frozen=True, slots=True)
class PluginContext:
    """What a plugin is given to work with.

    `provider` is the name that the configuration gives this instance; `settings` and `credentials`
    have been loaded through the plugin's own schemas.
    """

    provider: str
    clock: Clock
    settings: Mapping[str, Any] = field(default_factory=dict)
    credentials: Mapping[str, Any] = field(default_factory=dict)


class BarUpdate(NamedTuple):
    """A bar as a stream reports it; `closed` only if the provider says that its interval is over."""

    bar: Bar
    closed: bool


class MarketPlugin(ABC):
    """The mandatory core of a provider.

    Class attributes:
        plugin: the name that a configuration's `plugin = "…"` asks for.
        description: one sentence for people: what the data is and where it comes from.
        settings_schema, credentials_schema, params_schema: marshmallow schemas of the provider's
            section in the configuration, of its secrets, and of the extra parameters of one request.
        page_cost, symbols_cost: what one `fetch_ohlcv` and one `get_symbols` count for under the
            rate limit, where the provider weighs its calls.
        concurrency: how many calls may be under way at once.
        settle_ms: how long after its close a bar may still be absent from what the provider returns.
            Until then marketd serves the bar but does not take its absence for proof.

    Attributes set by the constructor or by `open`:
        clock: the provider's present; a bar is forming while `clock.now_ms()` lies inside it. The
            daemon's clock unless the plugin sets another.
        markets: the asset classes served, e.g. ("crypto",).
        timeframes: the base timeframes, those that the provider itself has. marketd derives others.
        page_limit: the most bars that one `fetch_ohlcv` returns; never more than the provider gives.
        page_intervals: the most intervals that one `fetch_ohlcv` is asked for, where the vendor answers
            for a stretch of time and not for a number of bars; None for any.
        rate_limit: how often the provider lets itself be asked with these credentials, or None. The
            class may say it, too. marketd keeps to it; the plugin need not count.
    """

    plugin: ClassVar[str]
    description: ClassVar[str] = ""
    settings_schema: ClassVar[type[Schema]] = NoFields
    credentials_schema: ClassVar[type[Schema]] = NoFields
    params_schema: ClassVar[type[Schema]] = NoFields
    concurrency: ClassVar[int] = 4
    settle_ms: ClassVar[int] = 0
    page_cost: ClassVar[int] = 1
    symbols_cost: ClassVar[int] = 1

    rate_limit: RateLimit | None = None
    markets: Sequence[str]
    timeframes: Sequence[Timeframe]
    page_limit: int = 1000
    page_intervals: int | None = None

    def __init__(self, context: PluginContext) -> None:
        self.context = context
        self.clock = context.clock

    async def open(self) -> None:  # noqa: B027 - most plugins have nothing to open
        """Connects, and tests settings and keys. Raises what is wrong as ProviderFailed.

        Called once, when somebody first needs the provider.
        """

    async def close(self) -> None:  # noqa: B027
        """Frees what `open` took. Called once, also when `open` failed half-way.

        No call is under way then. After it another object of the class may be made and opened; of this
        one only what it declares is read.
        """

    def timeframes_of(self, symbol: str) -> Sequence[Timeframe]:
        """The base timeframes of one symbol; override where they are not the same for all."""
        return self.timeframes

    @abstractmethod
    async def get_symbols(self, market: str) -> Sequence[SymbolInfo]:
        """Every symbol of `market`, one of `markets`. A symbol names one instrument of the provider."""

    @abstractmethod
    async def fetch_ohlcv(
        self,
        symbol: str,
        timeframe: Timeframe,
        since: int,
        before: int,
        limit: int,
        params: Mapping[str, Any],
    ) -> Sequence[Bar]:
        """The first `limit` bars whose open time lies in `[since, before)`, ascending.

        `timeframe` is one of `timeframes`, `since` and `before` are epoch milliseconds and `limit` is
        at most `page_limit`. The forming bar is included where the provider has it. Fewer bars than
        `limit` is the provider's word that the range holds no more: raise rather than return a part,
        and HistoryEnds where `since` lies before what the provider keeps.
        """


class BarStreams(ABC):
    """The capability of pushing bars as they form.

    `has_bar_stream` is for `open` to unset, where a plugin for many vendors finds one without.
    `is_authoritative` says that `fetch_ohlcv` returns what the stream has said of a closed bar, with
    its later corrections. Unless it does, marketd fetches such bars once more a little later.
    """

    has_bar_stream: bool = True
    is_authoritative: bool = False

    def streams_bars_of(self, symbol: str, timeframe: Timeframe) -> bool:
        """Override where not every series has a stream; the others are polled."""
        return True

    @abstractmethod
    def stream_bars(self, symbol: str, timeframe: Timeframe) -> AsyncIterator[BarUpdate]:
        """Updates of one series from now on, ascending, until it is closed or raises.

        Of the bars as they are without request parameters: those with parameters are polled. A closed
        bar that the vendor corrects may come again, closed and with its new values, at any time.
        """


class TickStreams(ABC):
    """The capability of pushing trades as they happen; `has_tick_stream` as with bars."""

    has_tick_stream: bool = True

    @abstractmethod
    def stream_ticks(self, symbol: str) -> AsyncIterator[Sequence[Tick]]:
        """Batches of one symbol's trades from now on, ascending, until it is closed or raises.

        An empty batch is a sign of life: the plugin's word that it has told every trade that was made
        until now, but for `settle_ms`. Yield one whenever the vendor says so, with its heartbeat.
        """


class TickHistory(ABC):
    """The capability of telling past trades; `has_tick_history` as with streams.

    `tick_page_limit` is the most trades that one `fetch_ticks` returns, which costs `page_cost`.
    """

    has_tick_history: bool = True
    tick_page_limit: int = 1000

    @abstractmethod
    async def fetch_ticks(self, symbol: str, since: int, before: int, limit: int) -> Sequence[Tick]:
        """The first `limit` trades with a time in `[since, before)`, ascending.

        `limit` is at most `tick_page_limit`, and may cut through a millisecond: marketd asks on from
        there. Fewer trades than `limit` is the provider's word that the range holds no more: raise
        rather than return a part, and HistoryEnds where `since` lies before what the provider keeps.
        """


class MarketHours(ABC):
    """The capability of knowing, from a calendar, when there cannot be a trade."""

    @abstractmethod
    def closed(self, symbol: str, since: int, before: int) -> Sequence[TimeRange]:
        """The ranges of `[since, before)` in which the market of `symbol` is closed, ascending.

        Epoch milliseconds. Name only what is certain, since marketd does not ask for bars there.
        Answers at once, without asking anybody: it is called in the event loop.
        """
