"""Files to recordings: a file that holds anything but bars in their order is refused.

The columns `timestamp_ms, open, high, low, close, volume` are found by name and others are ignored.
`timestamp_ms` is the bar's open in epoch milliseconds UTC.
"""

from __future__ import annotations

from pathlib import Path

from marketd.barfiles.layout import OWN, BadFile
from marketd.barfiles.reader import read_parts
from marketd.barfiles.recording import Recording
from marketd.domain.errors import ProviderFailed
from marketd.domain.timeframe import Timeframe


def refusal(sentence: str) -> ProviderFailed:
    """What `open` raises about the files: trying again does not mend them."""
    return ProviderFailed(sentence, transient=False)


def read(path: Path, timeframe: Timeframe) -> Recording:
    """The bars of one file, ascending, each a valid bar of `timeframe`; at least one.

    Raises ProviderFailed with the name of the file, and where one is at fault its line (in Parquet
    its row, counted from 1).
    """
    parts = []
    try:
        for part in read_parts(path, timeframe, OWN):
            if part.bad:
                place, reason = part.bad[0]
                raise refusal(f"{path.name}, {place}: {reason}.")
            parts.append(part.recording)
    except BadFile as error:
        raise refusal(str(error)) from None
    if not parts:
        raise refusal(f"{path.name} holds no bar.")
    return Recording.join(parts)
