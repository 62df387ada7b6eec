"""One tree of errors. Each carries a stable `code`; only the web room turns it into an HTTP status.

Every message is one short sentence that may be shown to a client: no secret, no traceback, no URL.
"""

from __future__ import annotations

from typing import ClassVar


class MarketdError(Exception):
    """The root: anything marketd says no with."""

    code: ClassVar[str] = "internal"

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class ConfigError(MarketdError):
    """The configuration cannot be used as it is."""

    code = "config"


class InvalidInput(MarketdError):
    """What the caller sent does not fit; `field` names the part at fault."""

    code = "invalid_input"

    def __init__(self, message: str, *, field: str) -> None:
        super().__init__(message)
        self.field = field


class LimitExceeded(MarketdError):
    """The caller asked for more than one request, message or client may have."""

    code = "limit_exceeded"


class Conflict(MarketdError):
    """What is asked for does not go together with what is there already."""

    code = "conflict"


class NotFound(MarketdError):
    """Nothing by that name."""

    code = "not_found"


class UnknownMarket(NotFound):
    code = "unknown_market"


class UnknownProvider(NotFound):
    code = "unknown_provider"


class UnknownSymbol(NotFound):
    code = "unknown_symbol"


class Unsupported(MarketdError):
    """The provider, or this installation, lacks what was asked for."""

    code = "unsupported"


class HistoryEnds(Unsupported):
    """The provider has no bar any more that opens before `first_ms`, though there may have been some.

    A plugin raises it when it is asked from before there on; it is asked again from there.
    """

    def __init__(self, first_ms: int) -> None:
        super().__init__("The provider does not keep a history this long.")
        self.first_ms = first_ms


class NotReady(MarketdError):
    """The part that would answer is not open yet, or not any more."""

    code = "not_ready"


class ProviderFailed(MarketdError):
    """The provider raised, answered garbage or refused.

    `transient` says whether the same request may succeed later: the core retries those.
    """

    code = "provider_failed"

    def __init__(self, message: str, *, transient: bool = True) -> None:
        super().__init__(message)
        self.transient = transient


class ProviderTimeout(ProviderFailed):
    """The provider did not answer within the time it is given."""

    code = "provider_timeout"


class FeedStalled(ProviderFailed):
    """A stream says nothing while bars go on: its connection looks alive and is not."""

    code = "feed_stalled"


class ProviderRateLimited(ProviderFailed):
    """The provider asks for patience; `retry_after_s` is its own figure, where it gave one."""

    code = "rate_limited"

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class StorageFailed(MarketdError):
    """The store cannot be opened, read or written; nothing was acknowledged."""

    code = "storage_failed"


class Superseded(MarketdError):
    """Another has taken over a series or a job: what this one would write of it counts no more."""

    code = "superseded"


class StorageLocked(StorageFailed):
    """Another process owns the store."""

    code = "storage_locked"
