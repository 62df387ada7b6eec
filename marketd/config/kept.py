"""What the configuration keeps filled: `[[backfill]]`, a table for each list of instruments."""

# ruff: noqa: RUF009 - `setting` and `needed` make dataclass fields

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import MISSING, dataclass, fields
from datetime import UTC, datetime
from typing import Any, TypeAlias

from marketd.config.settings import (
    Kind,
    Millis,
    bare,
    duration,
    format_duration,
    needed,
    parse_duration,
    setting,
    shown,
    text,
    unlike,
)
from marketd.domain.errors import InvalidInput
from marketd.domain.instant import epoch_ms
from marketd.domain.instrument import Instrument
from marketd.domain.timeframe import Timeframe
from marketd.domain.timerange import TimeRange

# All entries together: each series is a backfill of its own.
MOST_SERIES = 500
_LONGEST = 128

# Names and values, in the order of the names.
Params: TypeAlias = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Since:
    """Where history is to begin: at a time, or some time before the present."""

    at_ms: int | None = None
    ago_ms: Millis = Millis(0)

    def ms(self, now_ms: int) -> int:
        """That time in epoch milliseconds."""
        return max(0, now_ms - self.ago_ms) if self.at_ms is None else self.at_ms


def _parse_since(value: str) -> Since:
    try:
        return Since(ago_ms=parse_duration(value))
    except ValueError:
        day = datetime.fromisoformat(value)
        return Since(epoch_ms(day if day.tzinfo else day.replace(tzinfo=UTC)))


def _format_since(since: Since) -> str:
    if since.at_ms is None:
        return format_duration(since.ago_ms)
    return datetime.fromtimestamp(since.at_ms / 1000, UTC).isoformat().replace("+00:00", "Z")


def _is_word(value: object) -> bool:
    return isinstance(value, str) and 0 < len(value) <= _LONGEST and value.isprintable()


def _parse_symbols(values: Sequence[object]) -> tuple[str, ...]:
    symbols = tuple(value for value in values if isinstance(value, str) and _is_word(value))
    if not symbols or len(symbols) < len(values):
        raise ValueError("not a list of symbols")
    return symbols


def _parse_params(table: Mapping[str, object]) -> Params:
    params = tuple((key, value) for key, value in sorted(table.items()) if isinstance(value, str))
    if len(params) < len(table):
        raise ValueError("not a table of texts")
    return params


def _format_params(params: Params) -> str:
    return "{" + ", ".join(f"{json.dumps(key)} = {json.dumps(value)}" for key, value in params) + "}"


def _parse_timeframe(value: str) -> Timeframe:
    try:
        return Timeframe.parse(value)
    except InvalidInput as error:
        raise ValueError(error.message) from None


_TIMEFRAME = Kind("timeframe", 'a timeframe, such as "1m"', str, _parse_timeframe, str)
_SINCE = Kind(
    "time or duration",
    'a time, such as "2020-01-01", or a duration before the present, such as "10y"',
    str,
    _parse_since,
    _format_since,
)
_SYMBOLS = Kind(
    "list of texts", 'a list of symbols, such as ["BTC/USD"]', list, _parse_symbols, json.dumps
)
_PARAMS = Kind("table of texts", "a table of texts", dict, _parse_params, _format_params)


@dataclass(frozen=True, slots=True)
class KeptConfig:
    """Instruments whose history is kept filled and repaired, each as a backfill of its own."""

    provider: str = needed(text("the name of a provider", _is_word), "The provider's name here.")
    market: str = needed(text("the name of a market", _is_word), "The market of the symbols.")
    symbols: tuple[str, ...] = needed(_SYMBOLS, "The symbols, in the provider's own spelling.")
    timeframe: Timeframe = needed(_TIMEFRAME, "Of which bars, such as 1m.")
    since: Since = setting(_SINCE, "10y", "From when on: a time, or so long before the present.")
    params: Params = setting(_PARAMS, {}, "The provider's own parameters.")
    every: Millis = setting(
        duration(least="1s"), "1h", "How often it is looked at for what is missing, and repaired."
    )
    repair: Millis = setting(
        duration(least="0ms"), "1d", "How much of the newest is fetched again, in case it has changed."
    )

    def span(self, now_ms: int) -> TimeRange:
        """What is kept filled, as of `now_ms`; empty if that is not yet."""
        return TimeRange(min(self.since.ms(now_ms), now_ms), now_ms)

    def instruments(self) -> Iterator[Instrument]:
        """One for each symbol."""
        return (Instrument(self.market, self.provider, symbol) for symbol in self.symbols)


def read_kept(tables: object, refuse: Callable[[str, str], None]) -> tuple[KeptConfig, ...]:
    """The `[[backfill]]` tables of a file; `refuse(where, why)` is told what is wrong with them."""
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        refuse("backfill", f"saw {shown(tables)}, wanted [[backfill]], as often as needed.")
        return ()
    entries: list[KeptConfig] = []
    seen: dict[tuple[Instrument, Timeframe, Params], int] = {}
    for number, table in enumerate(tables, 1):
        where = f"[[backfill]] {number}"
        entry, problems = _entry(table)
        for key, why in problems.items():
            refuse(f"{where}, {key}", why)
        if entry is None:
            continue
        entries.append(entry)
        for instrument in entry.instruments():
            series = instrument, entry.timeframe, entry.params
            if series in seen:
                kept = f"{instrument.symbol} is kept by [[backfill]] {seen[series]} already"
                refuse(f"{where}, symbols", f"saw {shown(instrument.symbol)}, but {kept}.")
            seen.setdefault(series, number)
    if len(seen) > MOST_SERIES:
        refuse("backfill", f"saw {len(seen)} series, wanted at most {MOST_SERIES}.")
    return tuple(entries)


def _entry(table: Mapping[str, Any]) -> tuple[KeptConfig | None, Mapping[str, str]]:
    """One table, or what is wrong with which of its keys."""
    kinds: dict[str, Kind[Any]] = {each.name: each.metadata["kind"] for each in fields(KeptConfig)}
    values: dict[str, Any] = {}
    problems = {
        each.name: f"saw none, wanted {kinds[each.name].wanted}."
        for each in fields(KeptConfig)
        if each.default is MISSING and each.name not in table
    }
    for key, value in table.items():
        if key not in kinds:
            problems[bare(key)] = "unknown" + unlike(key, kinds)
            continue
        try:
            values[key] = kinds[key].read(value)
        except ValueError:
            problems[key] = f"saw {shown(value)}, wanted {kinds[key].wanted}."
    return None if problems else KeptConfig(**values), problems
