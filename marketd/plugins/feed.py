"""A base series or a tape of a provider: what everything that reads or follows them is handed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from marketd.domain.instrument import Instrument, Series
from marketd.domain.timerange import MIN_MS, TimeRange
from marketd.plugins.base import BarStreams
from marketd.plugins.guard import NOW, Turn
from marketd.plugins.pages import Fetched
from marketd.plugins.provider import Provider


class Present(NamedTuple):
    """One look at a provider's clock, and what follows from it for a series (epoch milliseconds).

    Bars that open before `closed_end_ms` are closed. Up to `settled_end_ms` the provider's silence
    proves that there is no bar. Whoever needs both must take them from the same look: an interval may
    end between two.
    """

    now_ms: int
    closed_end_ms: int
    settled_end_ms: int


@dataclass(frozen=True, slots=True)
class TickFeed:
    """An instrument's trades and where they come from.

    What is stored for a node that leads them is stored with its `fence` (see Storage.lead).
    """

    provider: Provider
    instrument: Instrument
    fence: int | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class Feed:
    """A base series and where it comes from. No bar of it lies outside `life`.

    What is stored for a node that leads the series is stored with its `fence` (see Storage.lead).
    """

    provider: Provider
    series: Series
    params: Mapping[str, Any]
    life: TimeRange
    fence: int | None = None

    @property
    def is_streamed(self) -> bool:
        """True if the plugin pushes these bars; a stream knows nothing of request parameters."""
        series = self.series
        return not series.variant and self.provider.streams_bars(
            series.instrument.symbol, series.timeframe
        )

    @property
    def may_correct(self) -> bool:
        """True if a bar that its stream calls closed may yet turn out otherwise."""
        if self.tape is not None:
            return self.provider.has_tick_history
        plugin = self.provider.plugin
        return not (isinstance(plugin, BarStreams) and plugin.is_authoritative)

    @property
    def tape(self) -> TickFeed | None:
        """The trades that its bars are made of, where the provider has no such bars."""
        return None

    @property
    def follows_trades(self) -> bool:
        """True if its bars are made of trades that the plugin pushes."""
        return self.tape is not None and self.provider.streams_ticks

    @property
    def is_of_live_trades(self) -> bool:
        """True if its bars can be made of trades alone as a stream tells them, and never afterwards."""
        return self.tape is not None and not self.provider.has_tick_history

    @property
    def known_ms(self) -> int:
        """Before this their stream proves what there was of the trades that its bars are made of."""
        return MIN_MS

    async def fetch(self, span: TimeRange, turn: Turn = NOW, *, again: bool = False) -> Fetched:
        """The first page of bars in `span`, closed and forming; see Provider.fetch.

        `again` says that what was told before may have changed.
        """
        symbol, timeframe = self.series.instrument.symbol, self.series.timeframe
        return await self.provider.fetch(symbol, timeframe, span, self.params, turn)

    def present(self) -> Present:
        """Where the series stands now."""
        provider, timeframe = self.provider, self.series.timeframe
        now_ms = provider.now_ms()
        settled_ms = timeframe.floor(now_ms - provider.plugin.settle_ms)
        return Present(now_ms, timeframe.floor(now_ms), settled_ms)

    def closed(self, span: TimeRange) -> list[TimeRange]:
        """The intervals in `span` for which the provider need not be asked: its market is closed."""
        return self.provider.closed(self.series.instrument.symbol, self.series.timeframe, span)
