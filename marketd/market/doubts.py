"""Ranges for which a provider sent what cannot be right: told as gaps, and asked for again rarely."""

from __future__ import annotations

import time
from collections.abc import Sequence

from marketd.domain.coverage import Gap, Reason
from marketd.domain.instrument import Series

# A provider may mend its history; one that does not is not asked with every request.
_ASK_AGAIN_AFTER_S = 3_600.0
_KEPT = 4_096


class Doubts:
    """When each range was last asked for. Every range is due once after a start."""

    def __init__(self) -> None:
        self._asked_s: dict[tuple[Series, int], float] = {}

    def not_due(self, series: Series, coverage: Sequence[Gap]) -> list[Gap]:
        """The unrecoverable ranges that are not to be asked for now; the others count as asked."""
        return [
            one
            for one in coverage
            if one.reason is Reason.UNRECOVERABLE and not self._take((series, one.start_ms))
        ]

    def asked(self, series: Series, gaps: Sequence[Gap]) -> None:
        """Says that these have just been asked for."""
        for gap in gaps:
            self._take((series, gap.start_ms))

    def _take(self, key: tuple[Series, int]) -> bool:
        """True if it is due, which it is no more then."""
        now_s = time.monotonic()
        asked_s = self._asked_s.get(key)
        if asked_s is not None and now_s - asked_s < _ASK_AGAIN_AFTER_S:
            return False
        self._asked_s.pop(key, None)
        if len(self._asked_s) >= _KEPT:
            del self._asked_s[next(iter(self._asked_s))]
        self._asked_s[key] = now_s
        return True
