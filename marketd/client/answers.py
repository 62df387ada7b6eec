"""What the daemon answers and tells, as values; and how its JSON becomes them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeAlias

from marketd.domain.bar import Bar, Tick

Time: TypeAlias = int | str | datetime


@dataclass(frozen=True, slots=True)
class ProviderInfo:
    """A provider of the daemon. `state` is `idle`, `opening`, `up` or `down`, with a `message` why."""

    provider: str
    plugin: str
    description: str
    markets: Sequence[str]
    timeframes: Sequence[str]
    features: Sequence[str]
    state: str
    message: str


@dataclass(frozen=True, slots=True)
class Gap:
    """A range `[start_ms, end_ms)` of which it is not proven that every bar is there.

    `reason` is `pending`, `feed_down` or `unrecoverable`.
    """

    symbol: str
    start_ms: int
    end_ms: int
    reason: str


@dataclass(frozen=True, slots=True)
class Bars:
    """One page of bars, ascending; the newest may still be forming.

    `complete` is False if `gaps` lists ranges that could not be had: an interval without a bar outside
    of them had no trade. `filled` holds the times of rows that are no bars, where `fill` asked for some.
    """

    bars: Sequence[Bar]
    complete: bool
    gaps: Sequence[Gap]
    next_page_token: str | None
    filled: Sequence[int]


@dataclass(frozen=True, slots=True)
class Ticks:
    """One page of trades, ascending: `(t, price, size, side, id)`, side and id empty where unknown.

    `complete` is False if `gaps` lists ranges of which there may have been others.
    """

    ticks: Sequence[Tick]
    complete: bool
    gaps: Sequence[Gap]
    next_page_token: str | None


@dataclass(frozen=True, slots=True)
class Refreshed:
    """How many bars were computed ahead; if not `complete` there was no time for all of them."""

    buckets: int
    complete: bool


@dataclass(frozen=True, slots=True)
class Backfill:
    """How a backfill of `[since_ms, before_ms)` stands.

    `state` is `pending`, `running`, `paused`, `done`, `failed` or `cancelled`; `message` says why it
    failed or what it waits for. `progress` goes from 0 to 1. `bars` counts what was fetched since it
    last began (of a repair, in all), of which `new` were not stored and `revised` have changed;
    `refused` ranges cannot be right. `eta_s` is None where nobody can tell. What the configuration
    keeps begins again every `every_s`, next at `next_ms` unless it is under way; else both are None.
    """

    id: str
    state: str
    message: str
    market: str
    provider: str
    symbol: str
    timeframe: str
    params: Mapping[str, str]
    since_ms: int
    before_ms: int
    repair: bool
    created_ms: int
    updated_ms: int
    progress: float
    eta_s: float | None
    bars_per_s: float
    bars: int
    new: int
    revised: int
    refused: int
    every_s: float | None
    next_ms: int | None

    @property
    def has_ended(self) -> bool:
        """It does nothing more, unless it is resumed or begins again at `next_ms`."""
        return self.state in ("done", "failed", "cancelled")


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Closed bars of the past; if they are not `complete`, Gap events follow."""

    symbol: str
    bars: Sequence[Bar]
    complete: bool


@dataclass(frozen=True, slots=True)
class BarUpdate:
    """A bar as it forms, or closed; with `rev` 1, 2 … a closed bar that the provider has changed."""

    symbol: str
    bar: Bar
    closed: bool
    rev: int


@dataclass(frozen=True, slots=True)
class Revised:
    """The closed bars that open in `[start_ms, end_ms)` are these now, and no others.

    Of bars that are measured in trades, after one that came late.
    """

    symbol: str
    start_ms: int
    end_ms: int
    bars: Sequence[Bar]


@dataclass(frozen=True, slots=True)
class TickSnapshot:
    """Trades of the past; if they are not `complete`, Gap events follow."""

    symbol: str
    ticks: Sequence[Tick]
    complete: bool


@dataclass(frozen=True, slots=True)
class TickUpdate:
    """New trades, ascending; one that comes late has a time before those told already."""

    symbol: str
    ticks: Sequence[Tick]


@dataclass(frozen=True, slots=True)
class Status:
    """How a stream is.

    The provider's feed of `symbol` is `down`, or `live` again; or it is `unrecovered` after a lost
    connection: nobody knows what was revised meanwhile of the bars before. Without a symbol: the
    connection to the daemon is `disconnected`, or `connected` again.
    """

    symbol: str
    state: str
    message: str


StreamEvent: TypeAlias = Snapshot | BarUpdate | Revised | Gap | Status
TickStreamEvent: TypeAlias = TickSnapshot | TickUpdate | Gap | Status


def bars_of(rows: Iterable[Sequence[Any]]) -> list[Bar]:
    """Rows of JSON as bars: NaN and the infinities, which are text there, are floats again."""
    return list(map(_bar, rows))


def gap_of(symbol: str, body: Mapping[str, Any]) -> Gap:
    """A gap as answers and messages have it."""
    return Gap(symbol, body["start"], body["end"], body["reason"])


def backfill_of(body: Mapping[str, Any]) -> Backfill:
    """A backfill as answers have it."""
    return Backfill(
        id=body["id"],
        state=body["state"],
        message=body["message"],
        market=body["market"],
        provider=body["provider"],
        symbol=body["symbol"],
        timeframe=body["timeframe"],
        params=body["params"],
        since_ms=body["since"],
        before_ms=body["before"],
        repair=body["repair"],
        created_ms=body["created"],
        updated_ms=body["updated"],
        progress=body["progress"],
        eta_s=body["eta_seconds"],
        bars_per_s=body["bars_per_second"],
        bars=body["bars"],
        new=body["new"],
        revised=body["revised"],
        refused=body["refused"],
        every_s=body["every_seconds"],
        next_ms=body["next"],
    )


def ticks_of(rows: Iterable[Sequence[Any]]) -> list[Tick]:
    """Trades as answers have them."""
    return [(t, float(price), float(size), side, name) for t, price, size, side, name in rows]


def time_text(time: Time) -> str:
    """A time as the daemon reads it; what is no time is the daemon's to refuse."""
    return time.isoformat() if isinstance(time, datetime) else str(time)


def _bar(row: Sequence[Any]) -> Bar:
    if str in map(type, row):
        row = [float(value) if isinstance(value, str) else value for value in row]
    t, open_, high, low, close, volume = row
    return (t, open_, high, low, close, volume)
