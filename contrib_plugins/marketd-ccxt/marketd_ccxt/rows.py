"""What ccxt hands over, as bars and ticks, or not at all: it passes on whatever the exchange sent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from marketd.domain.bar import Bar, Tick, open_time
from marketd.domain.errors import ProviderFailed


def bars_of(rows: Any, since_ms: int = 0) -> list[Bar]:
    """The bars of ccxt's rows, ascending, from `since_ms` on. Raises ProviderFailed for any other row.

    An answer that was cut off arrives as rows of None.
    """
    if not isinstance(rows, Sequence):
        raise _garbage()
    bars = {row[0]: _bar(row) for row in rows if _is_row(row)}
    return sorted((bar for bar in bars.values() if bar[0] >= since_ms), key=open_time)


def ticks_of(trades: Any, since_ms: int = 0) -> list[Tick]:
    """The ticks of ccxt's trades, ascending, from `since_ms` on. Raises ProviderFailed for any other."""
    ticks: list[Tick] = []
    for trade in trades:
        t_ms, price, size = (trade.get(key) for key in ("timestamp", "price", "amount"))
        if type(t_ms) is not int or not (_is_number(price) and _is_number(size)):
            raise _garbage()
        if t_ms >= since_ms:
            ticks.append((t_ms, float(price), float(size), trade["side"] or "", str(trade["id"] or "")))
    return sorted(ticks, key=open_time)


def _is_row(row: Any) -> bool:
    if (
        not isinstance(row, Sequence)
        or len(row) < 6
        or type(row[0]) is not int
        or not all(map(_is_number, row[1:5]))
        or not (row[5] is None or _is_number(row[5]))
    ):
        raise _garbage()
    return True


def _bar(row: Sequence[Any]) -> Bar:
    t_ms, open_, high, low, close, volume = row[:6]
    return (
        t_ms,
        float(open_),
        float(high),
        float(low),
        float(close),
        None if volume is None else float(volume),
    )


def _is_number(value: Any) -> bool:
    return type(value) in (int, float)


def _garbage() -> ProviderFailed:
    return ProviderFailed("The exchange answered with something that is not bars or trades.")
