"""What `marketd tail` shows: lines that stay and, in a terminal, the forming bars below them."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import click

from marketd.cli.text import BarFormat, gap_text, iso

if TYPE_CHECKING:
    from marketd.client import StreamEvent, TickStreamEvent
    from marketd.domain.bar import Bar
    from marketd.domain.instrument import Instrument


BARS = ("time", "open", "high", "low", "close", "volume")
TICKS = ("time", "price", "size", "side")


class Screen:
    """Standard output, with what is no bar on standard error."""

    def __init__(self, instruments: Sequence[Instrument], heading: Sequence[str]) -> None:
        self._is_terminal = sys.stdout.isatty()
        self._name_width = max(len(str(instrument)) for instrument in instruments)
        # The time of a trade has milliseconds.
        self._time_width = 24 if heading is TICKS else 20
        self._formats = {instrument: BarFormat() for instrument in instruments}
        self._forming: dict[Instrument, str] = {}
        self._drawn = 0
        self._last_note = ""
        if self._is_terminal:
            click.echo(self._columns("instrument", heading))

    def show(self, instrument: Instrument, event: StreamEvent | TickStreamEvent) -> None:
        """One event of the stream of `instrument`."""
        from marketd.client import (
            BarUpdate,
            Gap,
            Revised,
            Snapshot,
            Status,
            TickSnapshot,
            TickUpdate,
        )

        match event:
            case Snapshot(_, bars, _):
                self._print(self._lines(instrument, bars))
            case BarUpdate(_, bar, True, 0):
                self._forming.pop(instrument, None)
                self._print(self._lines(instrument, [bar]))
            case BarUpdate(_, bar, True, rev):
                self._print(f"{line}  revision {rev}" for line in self._lines(instrument, [bar]))
            case BarUpdate(_, bar):
                if self._is_terminal:
                    (self._forming[instrument],) = self._lines(instrument, [bar])
                    self._print([])
            case TickSnapshot(_, ticks) | TickUpdate(_, ticks):
                rows = ([iso(t_ms), str(price), str(size), side] for t_ms, price, size, side, _ in ticks)
                self._print(self._columns(str(instrument), row) for row in rows)
            case Revised(_, _, _, bars):
                self._print(f"{line}  revised" for line in self._lines(instrument, bars))
            case Gap():
                self._note(f"{instrument}: {gap_text(event)}")
            case Status("", state, message):
                # The connection to the daemon: the same news for every instrument.
                self._note(message or f"{state} again.")
            case Status(_, state, message):
                self._note(f"{instrument}: feed {state} {message}".rstrip())

    def _lines(self, instrument: Instrument, bars: Sequence[Bar]) -> list[str]:
        rows = self._formats[instrument].rows(bars)
        return [self._columns(str(instrument), row) for row in rows]

    def _columns(self, name: str, row: Sequence[str]) -> str:
        time, *values = row
        numbers = "".join(value.rjust(14) for value in values)
        return f"{time:{self._time_width}}  {name:{self._name_width}}{numbers}"

    def _note(self, text: str) -> None:
        if text == self._last_note:
            return
        self._last_note = text
        self._erase()
        click.echo(text, err=True)
        self._draw()

    def _print(self, lines: Iterable[str]) -> None:
        self._erase()
        text = "\n".join(lines)
        if text:
            click.echo(text)
        self._draw()

    def _erase(self) -> None:
        if self._drawn:
            # To the beginning of the first line that was drawn, and nothing from there on.
            click.echo(f"\x1b[{self._drawn}F\x1b[J", nl=False)

    def _draw(self) -> None:
        size = shutil.get_terminal_size()
        lines = [line[: size.columns - 1] for line in self._forming.values()][: size.lines - 1]
        self._drawn = len(lines)
        if lines:
            click.secho("\n".join(lines), dim=True)
