"""Logging as `event key=value` lines or JSON objects, with every credential blanked out."""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Collection
from datetime import UTC, datetime

from marketd.encoding import to_json

_KEY = re.compile(r"(\w+)=(%[\w.]+)")
_SHORTEST_SECRET = 4


def setup(level: str, form: str, secrets: Collection[str]) -> None:
    """Sends the process's log to standard error; `form` is `text` or `json`."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Json(secrets) if form == "json" else _Text(secrets))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)


def conceal(secrets: Collection[str]) -> None:
    """Blanks these out from now on, too."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler.formatter, _Blanking):
            handler.formatter.conceal(secrets)


class _Blanking(logging.Formatter):
    """What both forms share: no text leaves with a secret in it, wherever that came from."""

    def __init__(self, secrets: Collection[str]) -> None:
        super().__init__()
        self._told: set[str] = set()
        self.conceal(secrets)

    def conceal(self, secrets: Collection[str]) -> None:
        """Adds to what is blanked out."""
        self._told.update(secrets)
        told_apart = [one for one in map(str.strip, self._told) if len(one) >= _SHORTEST_SECRET]
        # In a repr, which tracebacks are full of, line breaks and quotes are escaped.
        spellings = {spelling for one in told_apart for spelling in (one, repr(one)[1:-1])}
        longest_first = sorted(spellings, key=len, reverse=True)
        self._secrets = re.compile("|".join(map(re.escape, longest_first))) if spellings else None

    def _blanked(self, text: str) -> str:
        clear = self._secrets.sub("***", text) if self._secrets else text
        # A file name may hold what is no Unicode text, and no encoder would take it.
        return clear.encode(errors="backslashreplace").decode()


class _Text(_Blanking):
    """`2024-01-31T14:30:00.123Z info marketd.daemon event key=value`, a traceback indented below it."""

    def format(self, record: logging.LogRecord) -> str:
        message = _one_line(self._blanked(record.getMessage()))
        line = f"{_time(record)} {record.levelname.lower()} {record.name} {message}"
        if record.exc_info:
            for part in self._blanked(self.formatException(record.exc_info)).splitlines():
                line += f"\n  {_one_line(part)}"
        return line


class _Json(_Blanking):
    """An object a line; the keys of the event are members of it."""

    def format(self, record: logging.LogRecord) -> str:
        event = str(record.msg)
        body = {"time": _time(record), "level": record.levelname.lower(), "logger": record.name}
        keys = _KEY.findall(event)
        if isinstance(record.args, tuple) and len(keys) == len(record.args):
            body["event"] = _KEY.split(event, maxsplit=1)[0].strip()
            body |= {key: how % (value,) for (key, how), value in zip(keys, record.args, strict=True)}
        else:
            body["event"] = record.getMessage()
        if record.exc_info:
            body["exception"] = self.formatException(record.exc_info)
        return to_json({key: self._blanked(text) for key, text in body.items()}).decode()


def _one_line(text: str) -> str:
    """`text` with its line breaks and control characters spelt out: it cannot pose as another line."""
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


def _time(record: logging.LogRecord) -> str:
    moment = datetime.fromtimestamp(record.created, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
