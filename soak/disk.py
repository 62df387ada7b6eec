"""What is on a disk after a power cut, given every change of its files until then.

What was there at a file's last flush is there. Of what was written since, each piece may have reached
the disk or not, whole or by some of its sectors, in any order; each name is what it was at the last
flush of the folder, or anything that it has been since.
"""

from __future__ import annotations

import random
from collections.abc import Mapping

from soak.recorder import Change, Deleted, FolderSynced, Made, Synced, Truncated, Written

_SECTOR = 512
# How likely a piece has reached the disk, and how likely by halves; one pair holds for a whole cut.
_FATES = ((0.0, 0.0), (0.1, 0.1), (0.5, 0.0), (0.3, 0.4), (0.9, 0.05), (1.0, 0.0))


class _File:
    """What holds out, and what was done since."""

    def __init__(self) -> None:
        self.held = bytearray()
        self.since: list[Written | Truncated] = []

    def sync(self) -> None:
        for change in self.since:
            _apply(self.held, change)
        self.since.clear()


class Disk:
    """One folder. With `flushes` false it is a disk that only says that it had flushed."""

    def __init__(self, *, flushes: bool = True) -> None:
        self._flushes = flushes
        self._now: dict[str, _File] = {}
        self._held: dict[str, _File | None] = {}
        self._since: dict[str, list[_File | None]] = {}

    def apply(self, change: Change) -> None:
        """The next change, as the program sees it."""
        match change:
            case Made(name):
                self._name(name, _File())
            case Deleted(name):
                self._name(name, None)
            case Written(name) | Truncated(name):
                self._now[name].since.append(change)
            case Synced(name) if self._flushes:
                self._now[name].sync()
            case FolderSynced() if self._flushes:
                self._held |= {name: files[-1] for name, files in self._since.items()}
                self._since.clear()

    def cut(self, chance: random.Random) -> Mapping[str, bytes]:
        """The files that there may be after a power cut now, and what they hold."""
        found: dict[str, bytes] = {}
        in_order, fates = chance.random() < 0.7, chance.choice(_FATES)
        for name in sorted(self._held.keys() | self._since.keys()):
            file = chance.choice([self._held.get(name), *self._since.get(name, ())])
            if file is not None:
                found[name] = _remains(file, in_order, fates, chance)
        return found

    def _name(self, name: str, file: _File | None) -> None:
        if file is None:
            del self._now[name]
        else:
            self._now[name] = file
        self._since.setdefault(name, []).append(file)


def _remains(file: _File, in_order: bool, fates: tuple[float, float], chance: random.Random) -> bytes:
    """What may be left of a file."""
    content, since = bytearray(file.held), list(file.since)
    if in_order:
        # As far as some point, where a piece is torn, and at random beyond.
        certain = chance.randint(0, len(since))
    else:
        chance.shuffle(since)
        certain = 0
    whole, torn = fates
    for number, change in enumerate(since):
        luck = 0.0 if number < certain else chance.random()
        if luck < whole or number < certain:
            _apply(content, change)
        elif (luck < whole + torn or number == certain) and isinstance(change, Written):
            for sector in _sectors(change):
                if chance.random() < 0.5:
                    _apply(content, sector)
    return bytes(content)


def _sectors(change: Written) -> list[Written]:
    """The parts of what was written that lie in one sector each."""
    name, offset, data = change
    parts = []
    while data:
        length = _SECTOR - offset % _SECTOR
        parts.append(Written(name, offset, data[:length]))
        offset, data = offset + length, data[length:]
    return parts


def _apply(content: bytearray, change: Written | Truncated) -> None:
    if isinstance(change, Truncated):
        del content[change.size :]
        content.extend(bytes(change.size - len(content)))
    else:
        end = change.offset + len(change.data)
        content.extend(bytes(max(0, end - len(content))))
        content[change.offset : end] = change.data
