"""What a folder holds: its files by name, and its symbols with their recordings laid along time."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from operator import attrgetter
from pathlib import Path

from marketd.barfiles.recording import Recording
from marketd.domain.errors import InvalidInput
from marketd.domain.timeframe import Timeframe
from marketd.plugins.replay.reader import refusal
from marketd.plugins.replay.settings import RecordedFile
from marketd.plugins.replay.timeline import Layout, Timeline, extent, in_laps, once

_NAME = re.compile(r"(.+?)_([1-9][0-9]*[smhdwMy])(?:_.*)?\.(?:csv|csv\.gz|parquet)")


@dataclass(frozen=True, slots=True)
class RecordedSymbol:
    """One symbol: where its recordings lie, and each of them."""

    symbol: str
    market: str
    name: str
    layout: Layout
    timelines: Mapping[Timeframe, Timeline]


def find(folder: Path, market: str) -> list[RecordedFile]:
    """The files called `<symbol>_<timeframe>[_anything]` in `folder` itself; at least one."""
    try:
        paths = sorted(folder.iterdir())
    except OSError as error:
        raise refusal(f"The folder of the recordings cannot be read: {error.strerror}.") from None
    found = []
    for path in paths:
        match = _NAME.fullmatch(path.name)
        if match is not None and path.name.isprintable() and path.is_file():
            try:
                timeframe = Timeframe.parse(match[2])
            except InvalidInput:
                raise refusal(f"The name of {path.name} has no timeframe that can be served.") from None
            found.append(RecordedFile(path.name, market, match[1], timeframe))
    if not found:
        raise refusal("The folder of the recordings has no file called like BTCUSD_1m.csv.")
    return found


def lay_out(recordings: Mapping[RecordedFile, Recording], *, repeat: bool) -> dict[str, RecordedSymbol]:
    """The symbols of the files that were read, in laps if `repeat`; raises ProviderFailed."""
    by_symbol: dict[str, list[RecordedFile]] = {}
    for file in recordings:
        by_symbol.setdefault(file.symbol, []).append(file)
    return {symbol: _symbol(files, recordings, repeat) for symbol, files in by_symbol.items()}


def _symbol(
    files: Sequence[RecordedFile], recordings: Mapping[RecordedFile, Recording], repeat: bool
) -> RecordedSymbol:
    symbol, market = files[0].symbol, files[0].market
    if any(file.market != market for file in files):
        raise refusal(f"{symbol} is in more than one market: one symbol is one instrument.")
    timeframes = sorted({file.timeframe for file in files}, key=attrgetter("nominal_ms"))
    series = {
        timeframe: _join([file for file in files if file.timeframe == timeframe], recordings)
        for timeframe in timeframes
    }
    recorded = extent(series)
    try:
        layout = in_laps(recorded, timeframes) if repeat else once(recorded)
    except ValueError as error:
        raise refusal(f'{symbol} cannot have clock = "present": {error}.') from None
    return RecordedSymbol(
        symbol,
        market,
        next((file.name for file in files if file.name), ""),
        layout,
        {timeframe: Timeline(recording, layout) for timeframe, recording in series.items()},
    )


def _join(files: Sequence[RecordedFile], recordings: Mapping[RecordedFile, Recording]) -> Recording:
    """The bars of one series, which several files may hold one after the other."""
    ordered = sorted(files, key=lambda file: int(recordings[file].t[0]))
    for earlier, later in pairwise(ordered):
        if recordings[later].t[0] <= recordings[earlier].t[-1]:
            raise refusal(f"{earlier.file} and {later.file} overlap in time.")
    return Recording.join([recordings[file] for file in ordered])
