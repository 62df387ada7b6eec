"""The row numbers behind the names of series and instruments."""

from __future__ import annotations

import sqlite3

from marketd.domain.instrument import Instrument, Series
from marketd.domain.timeframe import Timeframe

_FIND_SERIES = """
    SELECT id FROM series
    WHERE (market, provider, symbol, timeframe, variant) = (?, ?, ?, ?, ?)
"""
_ADD_SERIES = """
    INSERT INTO series (market, provider, symbol, timeframe, variant) VALUES (?, ?, ?, ?, ?)
"""
_ALL_SERIES = "SELECT market, provider, symbol, timeframe, variant FROM series ORDER BY id"
_FIND_INSTRUMENT = "SELECT id FROM instrument WHERE (market, provider, symbol) = (?, ?, ?)"
_ADD_INSTRUMENT = (
    "INSERT INTO instrument (market, provider, symbol) VALUES (?, ?, ?) ON CONFLICT DO NOTHING"
)


class SeriesIds:
    """The row number of every series met so far."""

    def __init__(self) -> None:
        self._known: dict[Series, int] = {}

    def find(self, connection: sqlite3.Connection, series: Series) -> int | None:
        """The id of a stored series, None if nothing of it was ever stored."""
        if series not in self._known:
            row = connection.execute(_FIND_SERIES, _key(series)).fetchone()
            if row is None:
                return None
            self._known[series] = row[0]
        return self._known[series]

    def ensure(self, connection: sqlite3.Connection, series: Series) -> int:
        """The id of a series, made if need be, within the caller's transaction."""
        found = self.find(connection, series)
        if found is None:
            connection.execute(_ADD_SERIES, _key(series))
            found = self.find(connection, series)
            assert found is not None  # noqa: S101 - written in this very transaction
        return found

    def forget(self) -> None:
        """Drops what is known: needed when a transaction that taught some of it was undone."""
        self._known.clear()


def all_series(connection: sqlite3.Connection) -> list[Series]:
    """See Storage.series_list."""
    return [
        Series(Instrument(*names), Timeframe.parse(timeframe), variant)
        for *names, timeframe, variant in connection.execute(_ALL_SERIES)
    ]


def find_instrument(connection: sqlite3.Connection, instrument: Instrument) -> int | None:
    """The row number of an instrument with trades, None if it never had any."""
    row = connection.execute(_FIND_INSTRUMENT, _names(instrument)).fetchone()
    return None if row is None else int(row[0])


def ensure_instrument(connection: sqlite3.Connection, instrument: Instrument) -> int:
    """The same, made if need be, within the caller's transaction."""
    connection.execute(_ADD_INSTRUMENT, _names(instrument))
    found = find_instrument(connection, instrument)
    assert found is not None  # noqa: S101 - written in this very transaction
    return found


def _names(instrument: Instrument) -> tuple[str, str, str]:
    return (instrument.market, instrument.provider, instrument.symbol)


def _key(series: Series) -> tuple[str, str, str, str, str]:
    return (*_names(series.instrument), str(series.timeframe), series.variant)
