"""What a client may ask for, and how many clients there may be."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable

from marketd.config import StreamConfig
from marketd.domain.errors import LimitExceeded

# A client that says much at once, as when it subscribes to all it wants, is measured over this time.
_WINDOW_S = 10


class MessageRate:
    """Lets `per_second` messages pass, on average over ten seconds."""

    def __init__(self, per_second: int, now_s: Callable[[], float] = time.monotonic) -> None:
        self._per_second = per_second
        self._now_s = now_s
        # When the client would have had to begin, had it always kept to the rate.
        self._since_s = now_s() - _WINDOW_S

    def take(self) -> None:
        """Counts one message; LimitExceeded if that is one too many, which then does not count."""
        now_s = self._now_s()
        since_s = max(self._since_s, now_s - _WINDOW_S) + 1 / self._per_second
        if since_s > now_s:
            raise LimitExceeded(f"A client may send {self._per_second} messages a second (max_rate).")
        self._since_s = since_s


class Places:
    """Counts the clients there are, and from where."""

    def __init__(self) -> None:
        self._of_address: Counter[str] = Counter()
        self._taken = 0

    def take(self, address: str, limits: StreamConfig) -> None:
        """Lets a client in; LimitExceeded if there are too many."""
        if self._taken >= limits.max_clients:
            raise LimitExceeded(f"There may be {limits.max_clients} clients (max_clients).")
        if self._of_address[address] >= limits.max_clients_per_address:
            raise LimitExceeded(
                f"One address may have {limits.max_clients_per_address} clients"
                " (max_clients_per_address)."
            )
        self._of_address[address] += 1
        self._taken += 1

    def give_back(self, address: str) -> None:
        """Takes leave of a client."""
        self._taken -= 1
        self._of_address[address] -= 1
        if not self._of_address[address]:
            del self._of_address[address]
