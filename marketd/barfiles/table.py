"""Some rows of a file as columns, before it is known which of them are bars."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

from marketd.barfiles.recording import Recording

# The rows of a part: reading them keeps the interpreter for about 5 ms at a time.
PART_ROWS = 4096


class Table(NamedTuple):
    """Rows in the order of the file. Those in `wrong` could not be read, with why, and hold anything;
    `place` tells where a row is in the file. `done` is how much of it has been read, from 0 to 1."""

    recording: Recording
    wrong: Mapping[int, str]
    place: Callable[[int], str]
    done: float
