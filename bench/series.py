"""Made-up bars: as Python rows, and millions of them straight into the real schema."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

from marketd.domain.bar import Bar
from marketd.domain.coverage import Covered, Reason
from marketd.domain.instrument import Instrument, Series
from marketd.domain.timeframe import Timeframe
from marketd.storage.sqlite.bars import store
from marketd.storage.sqlite.names import SeriesIds
from marketd.storage.sqlite.schema import migrate

MINUTE = Timeframe.parse("1m")
MINUTE_MS = 60_000
FIRST_MS = 1_262_304_000_000  # 2010-01-01, the first day of BTC/USD at the simulated exchange
BITCOIN = Series(Instrument("crypto", "sim", "BTC/USD"), MINUTE)

PAGE = 1_000

_NEXT_SERIES = (
    "INSERT INTO block (series, start, bars) SELECT ?, start, bars FROM block WHERE series = 1"
)


def other_series(number: int) -> Series:
    """The series that `build` gives the row number `number`; the first is BITCOIN."""
    if number == 1:
        return BITCOIN
    return Series(Instrument("crypto", "sim", f"NO{number}/USD"), MINUTE)


def build(path: Path, *, series: int, bars: int) -> None:
    """A new database: for each series `bars` (thousands of) minutes from FIRST_MS, all covered."""
    connection = sqlite3.connect(path, isolation_level=None)
    # Nothing here has to survive a crash.
    connection.execute("PRAGMA journal_mode = OFF")
    connection.execute("PRAGMA synchronous = OFF")
    migrate(connection)
    end_ms = FIRST_MS + bars * MINUTE_MS
    ids = SeriesIds()
    connection.execute("BEGIN")
    for page in pages(bars // PAGE, PAGE):
        store(connection, ids, BITCOIN, page, [], 0)
    for number in range(1, series + 1):
        store(connection, ids, other_series(number), [], [Covered(FIRST_MS, end_ms, Reason.DATA)], 0)
        if number > 1:
            connection.execute(_NEXT_SERIES, (number,))
    connection.execute("COMMIT")
    connection.close()


def pages(count: int, size: int, *, start_ms: int = FIRST_MS) -> Iterator[list[Bar]]:
    """`count` pages of `size` minutes, one after another from `start_ms`."""
    for page in range(count):
        first = page * size
        yield [minute(start_ms + i * MINUTE_MS, i) for i in range(first, first + size)]


def minute(t_ms: int, i: int) -> Bar:
    """The bar number `i`, at a time."""
    price = 42_000 + (i * 7919 % 20011 - 10_000) * 0.37
    prices = (price, price + 9.81, price - 9.43, price + 3.17)
    open_, high, low, close = (round(value, 2) for value in prices)
    return (t_ms, open_, high, low, close, i * 7907 % 2399 / 256)
