"""Which columns of a file are the bars', and how it writes their times."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from marketd.barfiles.times import TimeFormat

VALUES = ("open", "high", "low", "close", "volume")
FIELDS = ("t", *VALUES)
COLUMNS = ("timestamp_ms", *VALUES)  # what files of marketd's own call them

# Names that are looked for, in any case, where nobody says which column it is.
_USUAL = {
    "t": ("timestamp_ms", "timestamp", "time", "datetime", "date", "open_time", "t"),
    **{name: (name, name[0]) for name in VALUES},
}


class BadFile(Exception):
    """A file that cannot be read as bars, or only up to a point; a sentence that names it."""


class Positions(NamedTuple):
    """The column of the times, and that of each value: None of those that the file does not have."""

    t: int
    values: Sequence[int | None]


@dataclass(frozen=True, slots=True)
class Layout:
    """How to read a file.

    `columns` names the column of a field (`t`, `open` …), "" for values that the file does not have;
    a field that is left out is looked for under its usual names. With `labels_end` the time of a bar
    is that of its end. With `may_descend` the newest bar may come first.
    """

    columns: Mapping[str, str] = field(default_factory=dict)
    time: TimeFormat = field(default_factory=TimeFormat)
    labels_end: bool = False
    may_descend: bool = False

    def locate(self, name: str, header: Sequence[str]) -> Positions:
        """Where the columns of the fields are in the file `name`."""
        t, *values = (self._position(name, field, header) for field in FIELDS)
        if t is None:
            raise BadFile(f"{name} cannot be without a column of times.")
        return Positions(t, values)

    def _position(self, name: str, field: str, header: Sequence[str]) -> int | None:
        wanted = self.columns.get(field)
        if wanted == "":
            return None
        if wanted is not None:
            found = [place for place, title in enumerate(header) if title == wanted]
            if len(found) != 1:
                raise BadFile(f"{name} has {'more than one' if found else 'no'} column {wanted}.")
            return found[0]
        titles = [title.strip().lower() for title in header]
        for usual in _USUAL[field]:
            if titles.count(usual) > 1:
                raise BadFile(f"{name} has more than one column {usual}.")
            if usual in titles:
                return titles.index(usual)
        has = ", ".join(title[:30] for title in header[:20]) or "none"
        raise BadFile(f"{name} has no column that looks like {field}. Its columns: {has}.")


# Files as marketd writes them, and as the replay provider wants them.
OWN = Layout(dict(zip(FIELDS, COLUMNS, strict=True)), TimeFormat("ms"))
