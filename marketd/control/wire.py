"""What the socket carries: MessagePack of plain lists, and the values that they are of."""

from __future__ import annotations

from typing import Any

import ormsgpack

from marketd.domain.bar import Bar
from marketd.domain.coverage import Covered, Reason
from marketd.domain.instrument import Instrument, Series
from marketd.domain.timeframe import Timeframe
from marketd.domain.timerange import TimeRange
from marketd.storage.records import Checkup, QueryPlan, Revision, Stored, StoredBars

unpack = ormsgpack.unpackb


def pack(value: Any) -> bytes:
    """The bytes of plain values, and of named tuples of them."""
    return ormsgpack.packb(value, default=list)


def series_out(series: Series) -> list[str]:
    what = series.instrument
    return [what.market, what.provider, what.symbol, str(series.timeframe), series.variant]


def series_in(value: Any) -> Series:
    market, provider, symbol, timeframe, variant = map(str, value)
    return Series(Instrument(market, provider, symbol), Timeframe.parse(timeframe), variant)


def bars_in(value: Any) -> list[Bar]:
    return list(map(tuple, value))


def covered_in(value: Any) -> list[Covered]:
    return [Covered(int(start), int(end), Reason(reason)) for start, end, reason in value]


def span_in(value: Any) -> TimeRange:
    start_ms, end_ms = map(int, value)
    return TimeRange(start_ms, end_ms)


def stored_in(value: Any) -> Stored:
    inserted, revised, late = value
    return Stored(inserted, [Revision(tuple(bar), rev) for bar, rev in revised], late)


def read_in(value: Any) -> StoredBars:
    bars, covered = value
    return StoredBars(bars_in(bars), covered_in(covered))


def checkup_in(value: Any) -> Checkup:
    return Checkup(*value)


def plans_in(value: Any) -> list[QueryPlan]:
    return [QueryPlan(*plan) for plan in value]
