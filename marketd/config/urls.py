"""Where a host, a database and a Redis are, as settings spell it."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from marketd.config.settings import Kind, text

SQLITE = "sqlite:///"
POSTGRES = "postgresql://"
_HOST = re.compile(r"[\w.:%-]+")
_REDIS = re.compile(
    r"rediss?://([^\s/?#@]*@)?([\w.-]+|\[[0-9A-Fa-f:.]+\])(:(?P<port>[0-9]{1,5}))?(/[0-9]{0,5})?"
    r"|unix://([^\s/?#@]*@)?/[^\s?#]+(\?db=[0-9]{1,5})?",
    re.ASCII,
)
_PASSWORD = re.compile(r"^(postgresql://[^/?#@:]*:)[^/?#]*@")
_DATABASE = (
    "a database URL; known are sqlite:///relative.db, sqlite:////absolute/path.db "
    "and postgresql://user:password@host:port/name (what is not of A-Z, a-z, 0-9 and ._- in a password "
    "is written as %XX)"
)


def _is_host(host: str) -> bool:
    try:
        # What a look-up would do first, with a ValueError for a label too long or empty.
        host.encode("idna")
    except ValueError:
        return False
    return _HOST.fullmatch(host) is not None


def _is_database(url: str) -> bool:
    if not url.isprintable():
        return False
    if url.startswith(POSTGRES):
        return _is_postgres(url)
    path = url.removeprefix(SQLITE)
    if path == url:
        return url == ""
    # Neither SQLAlchemy's ":memory:" and "?options", nor a folder that is really called "~".
    return "?" not in path and Path(path).name != "" and path[0] not in ":~"


def _is_postgres(url: str) -> bool:
    try:
        parts = urlsplit(url)
        options = parse_qs(parts.query, strict_parsing=bool(parts.query))
        has_port = parts.port != 0
    except ValueError:
        # Among others for a password with a character that has to be quoted.
        return False
    # A password has one place, so that there is one to hide it in.
    return has_port and len(parts.path) > 1 and not parts.fragment and "password" not in options


def without_password(url: str) -> str:
    """`url` of a database, with its password left out."""
    return _PASSWORD.sub(r"\1…@", url)


def _is_redis(url: str) -> bool:
    match = _REDIS.fullmatch(url)
    return url == "" or (match is not None and 0 < int(match["port"] or 6379) < 65536)


HOST: Kind[str] = text("a host name or an IP address", _is_host)
DATABASE: Kind[str] = replace(text(_DATABASE, _is_database), format=without_password)
REDIS: Kind[str] = text("a Redis URL, redis://host:port/db, rediss://… (TLS) or unix:///path", _is_redis)
