"""Pages of bars that can be told from their numbers alone, so that a reader knows what must be there."""

from __future__ import annotations

import random

from marketd.domain.bar import Bar
from marketd.domain.coverage import Covered, Reason
from marketd.domain.instrument import Instrument, Series
from marketd.domain.timeframe import Timeframe
from marketd.domain.timerange import MAX_MS, MIN_MS, TimeRange
from marketd.storage.sqlite import SQLiteStorage

WRITERS = 4  # at once, so that kills hit transactions of several pages too

_LONGEST_PAGE = 400
_M = 60_000
_FIRST_MS = 1_500_000_000_000 // _M * _M
_PAGE_MS = 2 * _LONGEST_PAGE * _M
_EVER = TimeRange(MIN_MS, MAX_MS)

Page = tuple[int, int]
"""The number of a writer, and that of the page among its pages."""
Pages = dict[Page, int]
"""The version of each page."""


def series_of(writer: int) -> Series:
    """Every writer has a series of its own."""
    return Series(Instrument("crypto", "crash", f"writer {writer}"), Timeframe.parse("1m"))


def page_of(writer: int, number: int, version: int) -> tuple[list[Bar], Covered]:
    """The bars of a page, each telling the version, and what they prove; no page touches the next."""
    minutes = random.Random(f"{writer} {number}").randint(0, _LONGEST_PAGE)  # noqa: S311
    start_ms = _FIRST_MS + number * _PAGE_MS
    bars: list[Bar] = [
        (start_ms + minute * _M, 1.0, 2.0, 0.5, float(version), None) for minute in range(minutes)
    ]
    return bars, Covered(start_ms, start_ms + (minutes + 1) * _M, Reason.DATA)


async def found(storage: SQLiteStorage) -> Pages:
    """Every page there is; fails on one that is not whole, or not covered as it was stored."""
    pages: Pages = {}
    for writer in range(WRITERS):
        bars, coverage = await storage.read(series_of(writer), _EVER, limit=10_000_000)
        versions = {(bar[0] - _FIRST_MS) // _PAGE_MS: int(bar[4] or 0) for bar in bars}
        expected: list[Bar] = []
        for proven in coverage:
            number = (proven.start_ms - _FIRST_MS) // _PAGE_MS
            version = versions.get(number, 1)  # a page without bars looks the same in each
            page, whole = page_of(writer, number, version)
            assert proven == whole, f"{proven} is covered, and {whole} was stored"
            expected += page
            pages[writer, number] = version
        assert bars == expected, f"writer {writer} has a page that is not whole"
    return pages
