"""Times as people and programs write them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from marketd.domain.timerange import MAX_MS, MIN_MS

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LONGEST = 40


def epoch_ms(value: object) -> int:
    """Epoch milliseconds of epoch milliseconds, RFC 3339 text or a datetime with an offset.

    ValueError, with a sentence that says what is wanted, for anything else and for times before 1970
    or from 2100 on.
    """
    t_ms = _parsed(value)
    if t_ms is None:
        raise ValueError(
            "Write a time as epoch milliseconds, or as RFC 3339 with its offset, "
            "like 2024-01-31T14:30:00Z."
        )
    if not MIN_MS <= t_ms < MAX_MS:
        raise ValueError("Only times from 1970 up to 2100 are taken.")
    return t_ms


def _parsed(value: object) -> int | None:
    if isinstance(value, str):
        if len(value) > _LONGEST:
            return None
        if value.isascii() and value.removeprefix("-").isdecimal():
            return int(value)
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            return None
    if isinstance(value, datetime):
        if value.tzinfo is None:
            return None
        # Exact, and for any year, which a timestamp in floating seconds is not.
        return (value - _EPOCH) // timedelta(milliseconds=1)
    return value if type(value) is int else None
