"""Text of others, which has to be stored and told."""

from __future__ import annotations


def is_text(value: object) -> bool:
    """True of a string that UTF-8 can write: one with half of a surrogate pair can be told nobody."""
    if not isinstance(value, str):
        return False
    if value.isascii():
        return True
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True
