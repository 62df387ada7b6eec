"""How far a file is: a bar in a terminal, now and then a line elsewhere. On standard error."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import click

_STEPS = 1000
# Where there is no terminal, a line for every so many bars.
_LINE_EVERY = 1_000_000


class Progress:
    """The progress of one file; what is printed meanwhile goes through `note`."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._is_terminal = sys.stderr.isatty()
        self._bars = 0
        self._done = 0

    @contextmanager
    def running(self) -> Iterator[None]:
        """Draws, while inside."""
        with click.progressbar(
            length=_STEPS, label=self._name, file=sys.stderr, hidden=not self._is_terminal
        ) as bar:
            self._bar = bar
            yield

    def advance(self, bars: int, done: float | None = None) -> None:
        """So many bars more; `done` of the file, from 0 to 1, where that is known."""
        before, self._bars = self._bars, self._bars + bars
        if self._is_terminal:
            if done is not None:
                steps = int(done * _STEPS)
                self._bar.update(steps - self._done)
                self._done = steps
        elif before // _LINE_EVERY < self._bars // _LINE_EVERY:
            click.echo(f"{self._name}: {self._bars:,} bars so far", err=True)

    def note(self, line: str) -> None:
        """A line for people, above what is drawn."""
        click.echo(f"\r\033[K{line}" if self._is_terminal else line, err=True)
