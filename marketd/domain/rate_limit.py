"""How often a provider lets itself be asked."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RateLimit:
    """`requests` in every `per_ms`, evenly spread but for `burst`, which may come at once.

    Over any time of W ms at most `burst + W * requests / per_ms` are made. What is sent evenly may
    arrive in bunches: declare a `burst` that is a little below what the provider itself takes.
    """

    requests: int
    per_ms: int
    burst: int = 1

    def __post_init__(self) -> None:
        if min(self.requests, self.per_ms, self.burst) < 1:
            raise ValueError("requests, per_ms and burst are one at the least")

    @property
    def interval_us(self) -> int:
        """The microseconds in which the room for one more request comes back, rounded up."""
        return -(-self.per_ms * 1000 // self.requests)

    def shared_by(self, count: int) -> RateLimit:
        """What each of `count` may have, if they cannot tell one another what they use."""
        return RateLimit(self.requests, self.per_ms * count, max(1, self.burst // count))
