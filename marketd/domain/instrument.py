"""Which thing is meant: an instrument, and the series of its bars."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from marketd.domain.tickframe import Tickframe
from marketd.domain.timeframe import Timeframe


class Instrument(NamedTuple):
    """One symbol of one provider in one market. `symbol` is opaque: the provider's own spelling."""

    market: str
    provider: str
    symbol: str

    def __str__(self) -> str:
        return f"{self.market}/{self.provider}/{self.symbol}"


class Series(NamedTuple):
    """The bars of one instrument in one timeframe.

    `variant` tells apart the answers that a provider gives under different request parameters
    (adjusted and raw prices, say): a canonical query string such as `adjustment=split`, or empty.
    """

    instrument: Instrument
    timeframe: Timeframe
    variant: str = ""

    def __str__(self) -> str:
        suffix = f"?{self.variant}" if self.variant else ""
        return f"{self.instrument}@{self.timeframe}{suffix}"


class TickSeries(NamedTuple):
    """The bars of one instrument that are measured in trades."""

    instrument: Instrument
    timeframe: Tickframe

    def __str__(self) -> str:
        return f"{self.instrument}@{self.timeframe}"


@dataclass(frozen=True, slots=True)
class SymbolInfo:
    """What a provider says of one of its symbols. Empty text and None mean that it does not say.

    `first_ms` and `last_ms` bound the provider's history, `[first_ms, last_ms)`: it declares that no
    bar lies outside, so marketd does not ask for one there.
    """

    symbol: str
    market: str
    name: str = ""
    base: str = ""
    quote: str = ""
    first_ms: int | None = None
    last_ms: int | None = None
