"""Tokens that say where a page or a stream goes on: opaque to clients, and no secret."""

from __future__ import annotations

import base64
import binascii

from marketd.domain.errors import InvalidInput
from marketd.domain.timerange import MAX_MS


def pack(kind: str, value: str) -> str:
    """A token for the place `value` in something of this kind."""
    return base64.urlsafe_b64encode(f"{kind}:{value}".encode()).decode().rstrip("=")


def unpack(token: str, kind: str, *, field: str) -> str:
    """What `pack` was given; InvalidInput, naming the field it came in, for any other text."""
    try:
        padded = token + "=" * (-len(token) % 4)
        text = base64.b64decode(padded, altchars=b"-_", validate=True).decode()
    except (ValueError, binascii.Error):
        text = ""
    prefix = f"{kind}:"
    if not text.startswith(prefix):
        raise InvalidInput(f"{field} is not one that was given for this question.", field=field)
    return text.removeprefix(prefix)


def unpack_time(token: str, kind: str, *, field: str) -> int:
    """Like `unpack`, of a time in epoch milliseconds."""
    text = unpack(token, kind, field=field)
    if not (text.isascii() and text.isdigit()) or int(text[:20]) > MAX_MS:
        raise InvalidInput(f"{field} is not one that was given for this question.", field=field)
    return int(text)
