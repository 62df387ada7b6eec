"""Ranges for which a provider sent what cannot be right: told as gaps, and asked for again rarely."""

from __future__ import annotations

from collections.abc import Sequence

from marketd.domain.coverage import Gap, Reason
from marketd.domain.instrument import Series

# A provider may mend its history; one that does not is not asked with every request.
_ASK_AGAIN_AFTER_MS = 3_600_000
_KEPT = 4_096


class Doubts:
    """When each range was last asked for (the provider's time). Each is due once after a start."""

    def __init__(self) -> None:
        self._asked_ms: dict[tuple[Series, int], int] = {}

    def not_due(self, series: Series, coverage: Sequence[Gap], now_ms: int) -> list[Gap]:
        """The unrecoverable ranges that are not to be asked for now; the others count as asked."""
        return [
            one
            for one in coverage
            if one.reason is Reason.UNRECOVERABLE and not self._take((series, one.start_ms), now_ms)
        ]

    def asked(self, series: Series, gaps: Sequence[Gap], now_ms: int) -> None:
        """Says that these have just been asked for."""
        for gap in gaps:
            self._take((series, gap.start_ms), now_ms)

    def _take(self, key: tuple[Series, int], now_ms: int) -> bool:
        """True if it is due, which it is no more then."""
        asked_ms = self._asked_ms.get(key)
        if asked_ms is not None and now_ms - asked_ms < _ASK_AGAIN_AFTER_MS:
            return False
        self._asked_ms.pop(key, None)
        if len(self._asked_ms) >= _KEPT:
            del self._asked_ms[next(iter(self._asked_ms))]
        self._asked_ms[key] = now_ms
        return True
