"""A base series of a provider: what everything that reads or follows bars is handed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from marketd.domain.instrument import Series
from marketd.domain.timerange import TimeRange
from marketd.plugins.provider import Provider


@dataclass(frozen=True, slots=True)
class Feed:
    """A base series and where it comes from. No bar of it lies outside `life`."""

    provider: Provider
    series: Series
    params: Mapping[str, Any]
    life: TimeRange

    def closed_end_ms(self) -> int:
        """The start of the interval that is forming: bars that open before it are closed."""
        return self.series.timeframe.floor(self.provider.now_ms())

    def settled_end_ms(self) -> int:
        """Up to here the provider's silence proves that there is no bar."""
        return self.series.timeframe.floor(self.provider.settled_ms())
